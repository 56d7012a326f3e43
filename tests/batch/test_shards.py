"""Shards are disjoint, together the whole, balanced, and merge into one results file."""

from __future__ import annotations

import pytest
from batch_folders import contents, records, tones, write_manifest
from hypothesis import given
from hypothesis import strategies as st
from tone_task import ToneTask

from genmm.batch.runner import run_batch
from genmm.batch.shards import Shard
from genmm.core.errors import UsageError


@given(st.integers(0, 200), st.integers(1, 20))
def test_shards_are_disjoint_balanced_and_complete(rows, count):
    parts = [Shard(index, count).select(range(rows)) for index in range(1, count + 1)]
    assert sorted(sum(parts, [])) == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 100), st.integers(1, 6), st.integers(1, 6), st.data())
def test_a_divided_shard_selects_what_it_did_before(rows, count, parts, data):
    shard = Shard(data.draw(st.integers(1, count)), count)
    divided = [row for part in shard.split(parts) for row in part.select(range(rows))]
    assert sorted(divided) == shard.select(range(rows))


def test_text_form():
    assert str(Shard.parse(" 2/8 ")) == "2/8"
    for text in ("", "2", "0/3", "4/3", "-1/3", "1/0", "1/3/5", "a/b", "1 / 3", "1/1000000"):
        with pytest.raises(UsageError, match=r"shard|i/n"):
            Shard.parse(text)


def test_the_last_shard_merges_and_earlier_ones_do_not(tmp_path):
    manifest, out = write_manifest(tmp_path / "in.jsonl", tones(7)), tmp_path / "out"
    assert run_batch(ToneTask(), manifest, out, shard="2/3").results.name == "results.shard-00002-of-00003.jsonl"
    run_batch(ToneTask(), manifest, out, shard="1/3")
    assert not (out / "results.jsonl").exists()
    assert run_batch(ToneTask(), manifest, out, shard="3/3").results == out / "results.jsonl"
    assert sorted(out.glob("results*")) == [out / "results.jsonl"]
    assert [line["id"] for line in records(out)] == [row["id"] for row in tones(7)]


def test_the_undivided_run_takes_over_what_shards_left(tmp_path):
    manifest, out = write_manifest(tmp_path / "in.jsonl", tones(9)), tmp_path / "out"
    run_batch(ToneTask(), manifest, out, shard="1/3")
    run_batch(ToneTask(), manifest, out, shard="2/2")
    report = run_batch(ToneTask(), manifest, out)
    assert (report.done, report.made) == (9, 3)
    run_batch(ToneTask(), manifest, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_failed_item_of_a_merged_run_is_tried_again_by_its_shard(tmp_path):
    rows = tones(6)
    rows[4]["poison"] = "flaky"
    manifest, out = write_manifest(tmp_path / "in.jsonl", rows), tmp_path / "out"
    task = ToneTask(log=str(tmp_path / "log"))
    assert run_batch(task, manifest, out, shard="1/2").failed == 1
    assert run_batch(task, manifest, out, shard="2/2").exit_code == 0
    assert records(out)[4]["status"] == "failed"
    (tmp_path / "log.mended").touch()
    assert run_batch(task, manifest, out, shard="1/2").made == 1
    assert [line["status"] for line in records(out)] == ["done"] * 6


def test_edited_rows_win_over_old_records_of_any_shard(tmp_path):
    manifest, out = write_manifest(tmp_path / "in.jsonl", tones(6)), tmp_path / "out"
    run_batch(ToneTask(), manifest, out, shard="2/2")
    rows = tones(6)
    rows[1]["hertz"] = 999
    write_manifest(manifest, rows)
    for index in (1, 2, 3):
        run_batch(ToneTask(), manifest, out, shard=f"{index}/3")
    run_batch(ToneTask(), manifest, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_without_rows_is_done_at_once(tmp_path):
    manifest = write_manifest(tmp_path / "in.jsonl", tones(2))
    report = run_batch(ToneTask(), manifest, tmp_path / "out", shard="5/5")
    assert (report.total, report.exit_code) == (0, 0)
