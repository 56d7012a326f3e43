from __future__ import annotations

import json

import pytest

from benchmarks.tables import Report, Row, Section, number
from benchmarks.timing import Measured, alternate


def test_ratios_say_how_many_times_better_we_are():
    faster = Row(item="a", unit="frames/s", ours=30.0, peer=10.0, goal=2.0)
    sooner = Row(item="b", unit="s", ours=0.1, peer=0.4, better="lower", goal=5.0)
    assert faster.ratio == pytest.approx(3.0) and faster.is_met
    assert sooner.ratio == pytest.approx(4.0) and not sooner.is_met


def test_bounds_and_missing_goals():
    assert Row(item="a", unit="s", ours=0.1, better="lower", bound=0.2).is_met
    assert not Row(item="a", unit="x", ours=5.0, bound=6.0).is_met
    assert Row(item="a", unit="x", ours=5.0).is_met is None


def test_medians_and_spreads_turn_into_rates():
    speed = Measured.of([2.0, 1.0, 4.0]).per(8.0)
    assert (speed.median, speed.low, speed.high, speed.runs) == (4.0, 2.0, 8.0, 3)


def test_actions_alternate_and_warm_ups_do_not_count():
    calls: list[str] = []
    actions = {"one": lambda: calls.append("one"), "two": lambda: calls.append("two")}
    measured = alternate(actions, runs=3, warm_up=1)
    assert calls == ["one", "two"] * 4
    assert measured["one"].runs == 3 and measured["one"].low <= measured["one"].median <= measured["one"].high


def test_a_report_is_json_and_markdown():
    row = Row(
        item="decode", unit="frames/s", ours=Measured(20.0, 18.0, 21.0, 5), peer=10.0, peer_name="loop", limit=25.0,
        goal=1.7, note="Read this.",
    )  # fmt: skip
    report = Report("speech", {"cpu": "c", "cpu_cores": 2}, {"runs": 5}, [Section("Decoding", "How.", (row,))])
    report.sections.append(Section("Batch", "", skipped="no model"))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["sections"][0]["rows"][0]["ratio"] == 2.0 and data["sections"][0]["rows"][0]["is_met"]
    text = report.to_markdown()
    cells = (
        "| decode (1) | 20.0 (18.0 to 21.0) frames/s | 10.0 frames/s, loop | 2.00x | 25.0 frames/s | 80 % | 1.7x: met |"
    )
    assert cells in text and "(1) Read this." in text and "Not measured: no model" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.1234, "0.123"), (12.345, "12.3"), (75.0, "75.0"), (1234.5, "1234"), (2e9, "2.00e+09")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text
