"""`genmm batch speech` from the command line: results, check, shards, errors, signals."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.cli import main
from app.commands.batch import _count_or_share

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def manifest(tmp_path) -> Path:
    rows = [{"id": f"u{n}", "text": f"seven {n}"} for n in range(5)]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def batch(tiny_sled, tmp_path, manifest, capsys):
    def run(*words: str):
        line = ["batch", "speech", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
        code = main([*line, "--model", str(tiny_sled), "--device", "cpu", *words])
        return code, capsys.readouterr()

    return run


def lines(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]


def test_every_row_becomes_a_file(batch, tmp_path):
    code, said = batch()
    assert code == 0
    assert said.out.startswith("5 of 5 done (5 now), 0 failed: ")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.wav")) == [f"u{n}.wav" for n in range(5)]
    assert batch()[1].out.startswith("5 of 5 done (0 now)")


def test_format_seed_and_shards(batch, tmp_path):
    for index in (1, 2):
        assert batch("--shard", f"{index}/2", "--format", "flac", "--seed", "3")[0] == 0
    assert [line["files"][0] for line in lines(tmp_path)] == [f"u{n}.flac" for n in range(5)]


def test_check_does_nothing_but_check(batch, tmp_path, manifest):
    code, said = batch("--check", "--shard", "1/2")
    there = tmp_path / "out"
    known = "0 done, 0 failed before, 3 new"
    assert (code, said.out) == (0, f"{manifest} is fine: 5 items, 3 in shard 1/2; in {there}: {known}\n")
    assert not there.exists()


def test_check_says_what_is_done_and_refuses_what_the_run_would(batch, tmp_path, manifest):
    manifest.write_text(manifest.read_text() + '{"id": "odd", "text": "?!"}\n')
    assert batch()[0] == 3
    manifest.write_text(manifest.read_text() + '{"id": "new", "text": "seven"}\n')
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*"))
    code, said = batch("--check")
    assert code == 0 and said.out.endswith(f"7 items; in {tmp_path / 'out'}: 5 done, 1 failed before, 1 new\n")
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*")) == before
    (tmp_path / "file").touch()
    for words, message in {
        ("--seed", "1"): "belongs to a run with other settings",
        ("--batch-size", "0"): "batch size must be from 1",
        ("--workers", "0"): "workers must be from 1",
        ("--device", "gpu"): "gpu",
        ("--model", "./none"): "there is no model",
        ("--out", str(tmp_path / "file")): "is a file",
        ("--out", "/proc/here"): "/proc/here",
    }.items():
        refusals = [batch(*more, *words) for more in ((), ("--check",))]
        assert [code for code, _ in refusals] == [2, 2] and all(message in said.err for _, said in refusals), words


def test_failed_items_are_exit_code_3_and_named(batch, manifest):
    manifest.write_text(manifest.read_text() + '{"id": "odd", "text": "?!"}\n')
    code, said = batch()
    assert code == 3
    assert said.out.startswith("5 of 6 done (5 now), 1 failed: ")
    assert "genmm: odd failed: UsageError: there is nothing to say" in said.err


def test_a_bad_manifest_is_exit_code_2_with_its_lines(batch, tmp_path, manifest):
    manifest.write_text('{"id": "a", "text": "x"}\n{"id": "a", "txt": "x"}\n')
    code, said = batch()
    assert code == 2
    assert said.err.startswith(f"genmm: {manifest} has 1 problem; nothing was run")
    assert 'line 2: id "a" is used on line 1 already' in said.err
    assert not (tmp_path / "out").exists()


def test_another_seed_needs_another_folder(batch):
    batch()
    code, said = batch("--seed", "1")
    assert code == 2
    assert "seed: folder 0, now 1" in said.err


def test_giving_up_is_exit_code_3(batch, manifest):
    manifest.write_text("".join(json.dumps({"id": f"u{n}", "text": "?!"}) + "\n" for n in range(6)))
    code, said = batch("--max-errors", "1", "--batch-size", "1")
    assert code == 3
    assert "gave up" in said.err
    assert "the same command goes on" in said.err


def test_counts_and_shares():
    assert [_count_or_share(text) for text in ("0", "10", "5%", "0.05", "0%")] == [0, 10, 0.05, 0.05, 0.0]
    for text in ("", "x", "-1", "1.5", "100%", "-5%", "nan", "inf"):
        with pytest.raises(argparse.ArgumentTypeError):
            _count_or_share(text)


def started(tiny_sled, tmp_path, rows: int) -> subprocess.Popen:
    """The command in a process of its own, working."""
    manifest = tmp_path / "long.jsonl"
    manifest.write_text("".join(json.dumps({"id": f"u{n:04d}", "text": "seven " * 20}) + "\n" for n in range(rows)))
    line = [sys.executable, "-m", "app.cli", "batch", "speech", "--manifest", str(manifest), "--out"]
    line += [str(tmp_path / "out"), "--model", str(tiny_sled), "--batch-size", "4", "--device", "cpu"]
    # A background shell starts its children with SIGINT ignored; a person's terminal does not.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heard)
    results, deadline = tmp_path / "out" / "results.jsonl", time.monotonic() + 240
    while not results.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert results.exists(), process.communicate(timeout=5)
    return process


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code", "text"), [
    (signal.SIGTERM, 143, "finishing the batch in flight"),
    (signal.SIGINT, 130, "interrupted"),
])  # fmt: skip
def test_signals_stop_it_with_their_code_and_a_tidy_folder(tiny_sled, tmp_path, number, code, text):
    process = started(tiny_sled, tmp_path, 4000)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, text in said, "Traceback" in said) == (code, True, False)
    made = lines(tmp_path)
    assert 0 < len(made) < 4000
    assert len(made) % 4 == 0
    assert len({line["id"] for line in made}) == len(made)
    assert not list((tmp_path / "out" / ".run").glob("staging*"))
    wavs = {path.name for path in (tmp_path / "out").glob("*.wav")}
    assert {line["files"][0] for line in made} <= wavs
