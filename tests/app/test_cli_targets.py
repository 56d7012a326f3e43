"""Outputs that cannot be written are refused before any work, by every command that writes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli import main


@pytest.mark.parametrize(
    "line",
    [
        ["draw", "apple", "-o", "{file}/p.png"],
        ["tokenize", "{film}", "-o", "{file}/t.gmvq"],
        ["tokenize", "{film}", "-o", "t.gmvq", "--overlay", "{file}/map.mp4"],
        ["tokenize-image", "{film}", "-o", "{file}/lines.jsonl"],
        ["tokenize-image", "{film}", "--map", "{file}/map.png"],
        ["highlight", "{film}", "-o", "{file}/reel.mp4"],
        ["highlight", "{film}", "--thumbnails", "{file}"],
    ],
    ids=lambda line: " ".join(word for word in line if "{film}" not in word).replace("{file}/", ""),
)
def test_a_target_below_a_file_is_refused_at_once(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genmm.load", lambda *a, **k: pytest.fail("a model was loaded"))
    Path("notes.txt").write_text("not a folder")
    Path("film.mp4").write_bytes(b"never read")
    assert main([word.format(file="notes.txt", film="film.mp4") for word in line]) == 2
    assert "notes.txt is a file, not a folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "notes.txt"]
