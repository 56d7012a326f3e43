import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmm.core import files
from genmm.core.errors import DataError, UsageError
from genmm.core.files import (
    append_line,
    atomic_path,
    check_target,
    check_targets,
    free_name,
    read_json,
    safe_stem,
    write_bytes,
    write_json,
    write_text,
)  # fmt: skip

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def run(code, *args):
    program = "import os, signal, resource, sys\nfrom genmm.core import files\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, timeout=60)


def test_atomic_path_makes_the_file_and_its_folder(tmp_path):
    target = tmp_path / "deep" / "er" / "a.wav"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".wav"
        temporary.write_bytes(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["a.wav"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(OSError, match="nothing was written"), atomic_path(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_files_have_the_permissions_of_plain_new_files_whoever_writes_them(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "made") as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "made").stat().st_mode == plain.stat().st_mode


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(UsageError, match="is a folder"), atomic_path(tmp_path):
        pass


def test_a_target_is_tried_before_the_work_and_nothing_is_left(tmp_path):
    assert check_target(tmp_path / "new" / "deep" / "a.wav") == tmp_path / "new" / "deep" / "a.wav"
    (tmp_path / "plain").write_text("x")
    with pytest.raises(UsageError, match="is a folder"):
        check_target(tmp_path)
    with pytest.raises(UsageError, match="plain is a file, not a folder"):
        check_target(tmp_path / "plain" / "below" / "a.wav")
    assert [path.name for path in tmp_path.rglob("*")] == ["plain"]


def test_what_is_read_is_no_target(tmp_path):
    (tmp_path / "in.wav").write_text("x")
    (tmp_path / "link.wav").symlink_to(tmp_path / "in.wav")
    (tmp_path / "hard.wav").hardlink_to(tmp_path / "in.wav")
    for name in ("in.wav", "link.wav", "hard.wav", "new/../in.wav"):
        with pytest.raises(UsageError, match="would take the place of"):
            check_target(tmp_path / name, sources=[tmp_path / "in.wav"])
    numbered = tmp_path / "out_3.wav"
    assert check_target(tmp_path / "out.wav", sources=[numbered]) == tmp_path / "out.wav"
    with pytest.raises(UsageError, match="would take the place of"):
        check_target(tmp_path / "out.wav", sources=[numbered], several=True)
    check_target(tmp_path / "out.flac", sources=[numbered, tmp_path / "outer_3.flac"], several=True)
    with pytest.raises(UsageError, match="named twice"):
        check_targets([tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "c" / ".." / "a.csv"])


def test_a_free_name_keeps_earlier_results(tmp_path):
    wanted = tmp_path / "speech.wav"
    assert free_name(wanted) == wanted
    for taken in ("speech.wav", "speech-2_1.wav", "speech-3.json", "speech-4_1_organ.flac"):
        (tmp_path / taken).touch()
    (tmp_path / "speech-5_10.wav").touch()  # somebody's own
    assert free_name(wanted) == tmp_path / "speech-5.wav"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that takes no files, as /proc on Linux")
def test_a_target_where_nothing_can_be_made_is_refused():
    with pytest.raises(UsageError, match="nothing can be made in /proc"):
        check_target("/proc/a.wav")


def test_a_full_disk_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch):
    target = write_text(tmp_path / "a.txt", "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="needs file size limits of the system")
def test_a_real_write_error_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "a.bin", b"old")
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        files.write_bytes(sys.argv[1], bytes(5000))
    except OSError as error:
        print("refused", error.errno)
    """
    done = run(code, tmp_path / "a.bin")
    assert done.stdout.split() == ["refused", str(errno.EFBIG)], done.stderr
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder where nobody may write (/proc)")
def test_a_folder_where_nobody_may_write_is_an_error():
    with pytest.raises(OSError, match="/proc"):
        write_text("/proc/self/a.txt", "x")


@pytest.mark.skipif(AS_ROOT or os.name != "posix", reason="needs a user who is not root")
def test_a_read_only_folder_is_an_error(tmp_path):
    target = write_text(tmp_path / "a.txt", "old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_text(target, "new")
    finally:
        tmp_path.chmod(0o700)
    assert target.read_text() == "old"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_kill_around_the_replace_leaves_one_whole_file(tmp_path, moment):
    target = write_text(tmp_path / "a.txt", "old")
    code = """
    plain = os.replace
    def killed(source, target):
        if sys.argv[2] == "after":
            plain(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = killed
    files.write_text(sys.argv[1], "new" * 1000)
    """
    done = run(code, target, moment)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == ("old" if moment == "before" else "new" * 1000)
    write_text(target, "again")
    assert target.read_text() == "again"


def test_the_check_after_writing_sees_a_lost_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "sync_folder", lambda folder: (folder / "a.txt").unlink())
    with pytest.raises(OSError, match="not there as written"):
        write_text(tmp_path / "a.txt", "x")


def test_many_writers_leave_one_whole_file(tmp_path):
    target, texts = tmp_path / "a.txt", [str(i) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=write_text, args=(target, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert names(tmp_path) == ["a.txt"]


def test_json_survives_the_file(tmp_path):
    value = {"text": "\u00fcber\n", "numbers": [1, 2.5, None, True]}
    assert read_json(write_json(tmp_path / "a.json", value)) == value
    assert "\u00fcber" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, b"x"])
def test_what_json_cannot_hold_is_refused_and_nothing_written(tmp_path, value):
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"{", "not JSON.*line 1, column 2"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"1" * 5000, "not usable JSON"),
        (b"", "not JSON"),
    ],
)
def test_bad_json_is_a_data_error_that_names_the_file(tmp_path, data, text):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=rf"(?s)a\.json.*{text}|{text}"):
        read_json(tmp_path / "a.json")


def test_large_and_missing_json(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    with pytest.raises(DataError, match="larger than 4 bytes"):
        read_json(tmp_path / "a.json", max_bytes=4)
    with pytest.raises(DataError, match="No such file"):
        read_json(tmp_path / "b.json")


def test_a_byte_order_mark_is_no_hindrance(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


def test_lines_are_appended_whole(tmp_path):
    path = tmp_path / "log" / "a.jsonl"
    threads = [threading.Thread(target=append_line, args=(path, json.dumps({"n": n}))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(line)["n"] for line in path.read_text().splitlines()) == list(range(20))


@pytest.mark.parametrize("text", ["a\nb", "a\r"])
def test_a_line_has_no_line_break(tmp_path, text):
    with pytest.raises(UsageError, match="line break"):
        append_line(tmp_path / "a", text)


@pytest.mark.skipif(os.name != "posix", reason="needs file size limits of the system")
def test_a_line_that_does_not_fit_is_an_error(tmp_path):
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        files.append_line(sys.argv[1], "x" * 500)
    except OSError as error:
        print("refused")
    """
    assert run(code, tmp_path / "a.jsonl").stdout.strip() == "refused"


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("Hello, World!", "Hello_World"),
        ("../../etc/passwd", "etc_passwd"),
        ("na\u00efve caf\u00e9 \u8a00", "naive_cafe"),
        ("", "item"),
        ("\u0000/\\", "item"),
        ("con", "con_"),
        ("NUL.txt", "NUL.txt_"),
        ("a..b", "a.b"),
        (".hidden", "hidden"),
    ],
)
def test_safe_stem_examples(text, stem):
    assert safe_stem(text) == stem


@given(st.text(max_size=300))
def test_safe_stem_is_one_plain_settled_name(text):
    stem = safe_stem(text)
    assert 1 <= len(stem) <= 81
    assert set(stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not stem.startswith(".")
    assert ".." not in stem
    assert os.path.basename(stem) == stem
