"""The results file: whole lines only, one per id, success beats failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm.batch.results_log import Record, append_records, fold, read_records, repair_tail, rewrite


def record(name: str = "a", status: str = "done", row: str = "r1", **more) -> Record:
    if status == "failed":
        more.setdefault("error", {"type": "MediaError", "text": "broken"})
    return Record(id=name, status=status, seed=1, row=row, **more)


def test_records_come_back_as_written(tmp_path):
    path = tmp_path / "results.jsonl"
    wrote = [record("a", files=("a.wav", "a.json"), facts={"seconds": 1.5}), record("ü", "failed", notes=("halved",))]
    append_records(path, wrote[:1])
    append_records(path, wrote[1:])
    assert list(read_records(path)) == wrote
    assert all(json.loads(line)["id"] in "aü" for line in path.read_text().splitlines())


def test_every_cut_of_the_file_is_repaired_to_whole_lines(tmp_path):
    whole = "".join(record(name).to_line() for name in "abc").encode()
    path = tmp_path / "results.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        removed = repair_tail(path)
        kept = path.read_bytes()
        assert kept == whole[: whole[:cut].rfind(b"\n") + 1]
        assert len(kept) + removed == cut
        append_records(path, [record("z")])
        assert [r.id for r in read_records(path)] == ["a", "b", "c"][: kept.count(b"\n")] + ["z"]


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\0" * 40 + b"\n", b'{"id": "x"', b"\xff\xfe\n", b"}\n{\n"])
def test_what_a_lost_power_leaves_is_removed(tmp_path, tail):
    path = tmp_path / "results.jsonl"
    append_records(path, [record("a")])
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert repair_tail(path) == len(tail)
    assert path.read_bytes() == good


def test_a_missing_file_has_no_records_and_needs_no_repair(tmp_path):
    assert repair_tail(tmp_path / "none") == 0
    assert list(read_records(tmp_path / "none")) == []


def test_damaged_lines_inside_are_told_and_left_out(tmp_path, caplog):
    path = tmp_path / "results.jsonl"
    lines = [record("a").to_line(), "nonsense\n", '{"id": "b", "status": "great"}\n', '{"id": 3, "status": "done"}\n']
    path.write_text("".join([*lines, record("c").to_line()]))
    assert [r.id for r in read_records(path)] == ["a", "c"]
    assert [f"line {n} of results.jsonl is damaged" in caplog.text for n in (1, 2, 3, 4, 5)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_line_that_another_process_is_writing_is_left_alone(tmp_path, caplog):
    path = tmp_path / "results.jsonl"
    path.write_text(record("a").to_line() + record("b").to_line()[:20])
    assert [r.id for r in read_records(path)] == ["a"]
    assert not caplog.records


def test_success_beats_failure_and_the_newest_wins():
    done, failed = record("a"), record("a", "failed")
    assert fold([failed, done])["a"] is done
    assert fold([done, failed])["a"] is done
    newer = record("a", "failed", notes=("second",))
    assert fold([failed, newer])["a"] is newer


def test_a_record_of_the_manifest_at_hand_beats_records_of_edited_rows():
    old, new = record("a", row="old"), record("a", "failed", row="new")
    assert fold([old, new], {"a": "new"})["a"] is new
    assert fold([new, old], {"a": "new"})["a"] is new
    assert fold([new, old])["a"] is old


def test_rewrite_replaces_the_file_in_one_step(tmp_path):
    path, scratch = tmp_path / "results.jsonl", tmp_path / "scratch"
    scratch.mkdir()
    append_records(path, [record("a", "failed"), record("a")])
    rewrite(path, [record("a")], scratch)
    assert path.read_text() == record("a").to_line()
    assert list(scratch.iterdir()) == []


@given(st.text(max_size=50), st.text(max_size=200), st.integers(0, 2**63 - 1))
def test_any_text_is_one_line_and_comes_back(name, text, seed):
    wrote = Record(id=name, status="failed", seed=seed, row="r", error={"type": "E", "text": text}, notes=(text,))
    line = wrote.to_line()
    assert line.count("\n") == 1
    assert line.isascii()
    assert Record.from_line(line) == wrote
