"""The manifest is checked in full before any work, and every problem names its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tone_task import ToneTask

from genmm.batch.manifest import MAX_ID_BYTES, ManifestError, check_rows, id_problem, read_manifest
from genmm.batch.plan import make_plan
from genmm.core.errors import DataError, UsageError

FIELDS = ("text", "voice", "seed")


def manifest(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return path


def problems(tmp_path: Path, *lines: str | bytes) -> list[tuple[int, str]]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(manifest(tmp_path, *lines), FIELDS)
    for line, _ in caught.value.problems:
        assert f"line {line}:" in str(caught.value)
    return list(caught.value.problems)


def test_good_rows_keep_order_lines_and_folder(tmp_path):
    path = manifest(tmp_path, '\ufeff{"id": "b", "text": "one"}', "", '  {"text": "two", "id": "a"}  ')
    rows = read_manifest(path, FIELDS)
    assert [(row.id, row.line, dict(row.fields)) for row in rows] == [
        ("b", 1, {"text": "one"}),
        ("a", 3, {"text": "two"}),
    ]
    assert rows[0].folder == tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "x"}', 'has no "id"'),
        ('{"id": 7}', "id must be a string, got a number 7"),
        ('{"id": null}', "id must be a string, got null"),
        ('{"id": ["a"]}', "id must be a string, got a list"),
        ('{"id": ""}', "id is empty"),
        ('{"id": "../up"}', "unsafe in a file name"),
        ('{"id": "a/b"}', "unsafe in a file name"),
        ('{"id": "a\\\\b"}', "unsafe in a file name"),
        ('{"id": ".hidden"}', "starts with a dot"),
        ('{"id": "dot."}', "ends with one"),
        ('{"id": "a\\u0000b"}', "control characters"),
        ('{"id": "a\\nb"}', "control characters"),
        ('{"id": "\\ud800"}', "control characters"),
        ('{"id": "nul"}', "reserved device name"),
        ('{"id": "Com1.x"}', "reserved device name"),
        ('{"id": "' + "ä" * 100 + '"}', "200 bytes"),
        ('{"id": "x", "txt": "a"}', "did you mean 'text'?"),
        ('{"id": "x", "colour": 1}', "known fields: id, text, voice, seed"),
        ('{"id": "x", "text": "a", "text": "b"}', "'text' is given twice"),
        ('{"id": "x", "seed": NaN}', "NaN is not a JSON number"),
        ('["x"]', "must be a JSON object"),
        ('{"id": "x"', "not one JSON object"),
        ('{"id": "x"} {"id": "y"}', "not one JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "not one JSON object"),
        ('{"id": "x", "text": "' + "a" * 1_000_000 + '"}', "longer than 1000000 bytes"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path, line, expected):
    found = problems(tmp_path, '{"id": "fine"}', line)
    assert [number for number, _ in found] == [2]
    assert expected in found[0][1]


def test_duplicates_name_both_lines_also_when_only_the_disk_would_confuse_them(tmp_path):
    found = problems(
        tmp_path, '{"id": "a"}', '{"id": "b"}', '{"id": "a"}', '{"id": "B"}', '{"id": "\\u00e9"}', '{"id": "e\\u0301"}'
    )
    assert [(line, "line 1" in text, "line 2" in text, "line 5" in text) for line, text in found] == [
        (3, True, False, False),
        (4, False, True, False),
        (6, False, False, True),
    ]
    assert "same file" in found[1][1]


def test_all_problems_are_reported_at_once_and_long_lists_are_counted(tmp_path):
    path = manifest(tmp_path, *['{"text": "x"}'] * 50)
    with pytest.raises(ManifestError, match=r"50 problems; nothing was run(.|\n)*line 20(.|\n)*and 30 more"):
        read_manifest(path, FIELDS)


def test_missing_and_empty_manifests_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the manifest .*none\.jsonl"):
        read_manifest(tmp_path / "none.jsonl", FIELDS)
    with pytest.raises(DataError, match="cannot read"):
        read_manifest(tmp_path, FIELDS)
    with pytest.raises(DataError, match="has no rows"):
        read_manifest(manifest(tmp_path, "", "  "), FIELDS)


def test_task_errors_are_gathered_with_their_lines(tmp_path):
    rows = read_manifest(
        manifest(tmp_path, '{"id": "a", "text": ""}', '{"id": "b", "text": "x"}', '{"id": "c", "text": ""}'), FIELDS
    )

    def validate(row):
        if not row.fields["text"]:
            raise UsageError("the text is empty")
        return row.fields["text"]

    found = []
    assert check_rows(rows, validate, found) == {"b": "x"}
    assert found == [(1, "the text is empty"), (3, "the text is empty")]


def test_bad_lines_and_bad_values_are_told_in_one_round_in_order(tmp_path):
    lines = ['{"id": "a", "hertz": 1}', '{"id": "a"}', "{", '{"id": "b", "seed": -1}', '{"id": "c", "herz": 9}']
    with pytest.raises(ManifestError, match="5 problems") as caught:
        make_plan(ToneTask(), manifest(tmp_path, *lines, '{"id": "d"}'))
    assert [line for line, _ in caught.value.problems] == [1, 2, 3, 4, 5]
    with pytest.raises(ManifestError, match="line 1: not one JSON object"):
        make_plan(ToneTask(), manifest(tmp_path, "{"))


def test_digest_depends_on_the_fields_and_not_on_their_order(tmp_path):
    one, two, three = (
        read_manifest(manifest(tmp_path, line), FIELDS)[0].digest()
        for line in (
            '{"id": "a", "text": "x", "seed": 1}',
            '{"seed": 1, "text": "x", "id": "b"}',
            '{"id": "a", "text": "x", "seed": 2}',
        )
    )
    assert one == two != three


@given(st.text(max_size=60))
def test_an_accepted_id_is_one_file_name_on_every_disk(name):
    if id_problem(name) is None:
        file = name + ".wav"
        assert 0 < len(file.encode()) <= MAX_ID_BYTES + 4
        assert Path("folder", file).parent == Path("folder")
        assert Path(file).name == file
        assert not file.startswith(".")
        assert not set('/\\<>:"|?*\0') & set(file)


@given(st.lists(st.dictionaries(st.sampled_from(["text", "voice"]), st.text()), min_size=1, max_size=8))
def test_any_texts_come_back_unchanged(tmp_path_factory, fields):
    path = tmp_path_factory.mktemp("m") / "in.jsonl"
    path.write_text("".join(json.dumps({"id": f"i{k}", **row}) + "\n" for k, row in enumerate(fields)))
    assert [dict(row.fields) for row in read_manifest(path, FIELDS)] == fields
