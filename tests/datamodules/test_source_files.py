"""Digests of source files: they change with what the files are, and reading nothing they are fast."""

from __future__ import annotations

import os
import time

from datamodules.source_files import file_state, sources_digest


def test_the_digest_follows_names_order_size_and_time(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"abc")
    two.write_bytes(b"abc")
    items = [("a", one), ("b", two), ("drawn", None)]
    first = sources_digest(items)
    assert sources_digest(iter(items)) == first and len(first) == 16
    assert sources_digest(items[::-1]) != first != sources_digest(items[:2])
    assert sources_digest([("a", one), ("c", two), ("drawn", None)]) != first
    state = two.stat()
    two.write_bytes(b"xyz")
    os.utime(two, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert sources_digest(items) != first
    os.utime(two, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sources_digest(items) == first  # nothing is read
    two.unlink()
    assert file_state(two) == "missing" and sources_digest(items) != first


def test_files_that_hold_many_items_are_looked_at_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("datamodules.source_files.file_state", lambda path: calls.append(path) or "")
    sources_digest((str(i), tmp_path / str(i % 2)) for i in range(1000))
    assert len(calls) == 2


def test_ten_thousand_files_take_no_time(tmp_path):
    for number in range(2000):
        (tmp_path / str(number)).touch()
    items = [(f"{turn}-{number}", tmp_path / str(number)) for number in range(2000) for turn in range(5)]
    started = time.process_time()
    sources_digest(items)
    assert time.process_time() - started < 2.0
