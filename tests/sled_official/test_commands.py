"""`genmm pull`, `convert` and `models` as a person uses them."""

import io
import json

import huggingface_hub
import pytest

from app.cli import main


class Terminal(io.StringIO):
    """Standard input with a person at it."""

    def isatty(self) -> bool:
        return True


def genmm(capsys, *words):
    """Run a command line: exit code, standard output, standard error."""
    code = main(list(words))
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_pull_shows_sizes_and_licences_then_names_the_model(client, home, capsys):
    client.licences["facebook/encodec_24khz"] = "mit"
    code, out, err = genmm(capsys, "pull", "sled", "--yes")
    assert (code, out) == (0, "sled-libriheavy\n")
    for part in (
        "ICTNLP/SLED-TTS-Libriheavy at ",
        "model.safetensors (",
        " kB",
        "licence: mit",
        "not stated",
        str(home),
    ):
        assert part in err
    code, out, err = genmm(capsys, "pull", "sled")
    assert (code, out) == (0, "sled-libriheavy\n") and "up to date" in err


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("no\n", 130), ("\n", 130)])
def test_pull_asks(client, home, capsys, monkeypatch, answer, code):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert genmm(capsys, "pull", "sled", "--streaming")[0] == code
    assert (home / "models" / "sled-streaming-libriheavy").exists() == (code == 0)


def test_pull_without_anybody_to_ask_needs_yes(client, home, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = genmm(capsys, "pull", "sled")
    assert (code, out) == (2, "") and "--yes" in err and not home.exists()


def test_pull_offline_says_how_to_do_it_by_hand(client, home, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, out, err = genmm(capsys, "pull", "sled", "--yes")
    assert (code, out) == (2, "")
    command = f"genmm convert sled SLED-TTS-Libriheavy {home / 'models' / 'sled-libriheavy'} --codec encodec_24khz"
    assert command in err and "https://huggingface.co/facebook/encodec_24khz" in err


def test_the_command_given_for_files_by_hand_works(client, home, capsys, official_folders, monkeypatch):
    monkeypatch.chdir(official_folders["offline"].parent)
    target = str(home / "models" / "sled-libriheavy")
    code, out, _ = genmm(capsys, "convert", "sled", "SLED-TTS-Libriheavy", target, "--codec", "encodec_24khz")
    assert (code, out) == (0, f"{target}\n")
    code, out, _ = genmm(capsys, "models", "sled-libriheavy")
    assert code == 0 and out.count("pulled") == 1 and "not stated" in out


def test_convert_refuses_in_plain_words(official_folders, tmp_path, capsys):
    official, codec = str(official_folders["offline"]), str(official_folders["encodec"])
    for words, message in [
        (["sled", str(tmp_path / "none"), str(tmp_path / "out"), "--codec", codec], "there is no folder"),
        (["sled", official, str(tmp_path / "out"), "--codec", official], "no official EnCodec folder"),
        (["sled", official, official, "--codec", codec], "--overwrite"),
        (["whisper", official, str(tmp_path / "out")], "there is no 'whisper'"),
        (["sled", official], "OUT"),
    ]:
        code, out, err = genmm(capsys, "convert", *words)
        assert (code, out) == (2, "") and message in err
    assert list(tmp_path.iterdir()) == []


def test_models_lists_what_is_here_and_what_could_be(client, home, capsys):
    code, out, _ = genmm(capsys, "models", "--json", "--device", "cpu")
    before = json.loads(out)
    assert code == 0 and {entry["command"] for entry in before["pullable"] if "sled" in entry["command"]} == {
        "genmm pull sled",
        "genmm pull sled --streaming",
    }
    genmm(capsys, "pull", "sled", "--yes")
    after = json.loads(genmm(capsys, "models", "--json", "--device", "cpu")[1])
    model = next(entry for entry in after["models"] if entry["name"] == "sled-libriheavy")
    assert (model["source"], model["system"], model["fits"]) == ("pulled", "sled", True)
    assert model["parameters"] > 10_000 and model["memory_bytes"] > 4 * model["parameters"]
    left = [entry["name"] for entry in after["pullable"] if "sled" in entry["command"]]
    assert left == ["sled-streaming-libriheavy"]
    half = json.loads(genmm(capsys, "models", "--json", "--device", "cpu", "--dtype", "bfloat16")[1])["models"]
    assert next(m for m in half if m["name"] == model["name"])["memory_bytes"] * 2 == pytest.approx(
        model["memory_bytes"], abs=2
    )
    text = genmm(capsys, "models")[1]
    assert (
        "sled-libriheavy\n" in text and "fits" in text and "licence: " in text and "genmm pull sled --streaming" in text
    )


def test_models_tells_memory_that_is_too_small(client, home, capsys, monkeypatch):
    genmm(capsys, "pull", "sled", "--yes")
    monkeypatch.setattr("genmm.core.devices.memory_bytes", lambda device: 1000)
    assert "DOES NOT FIT" in genmm(capsys, "models", "--device", "cpu")[1]


def test_models_refuses_what_is_no_model(home, capsys, tmp_path, official_folders):
    assert genmm(capsys, "models", "no-such-model")[0] == 2
    code, _, err = genmm(capsys, "models", str(official_folders["offline"]))
    assert code == 2 and "genmm convert" in err


@pytest.mark.parametrize("words", [["pull"], ["convert"], ["convert", "sled"], ["models"]])
def test_help_explains(capsys, words):
    code, out, _ = genmm(capsys, *words, "--help")
    assert code == 0 and len(out.splitlines()) > 10 and (words == ["convert"] or "examples:" in out)
