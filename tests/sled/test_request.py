"""Requests: seeds, settings, lengths."""

import pytest

from genmm.core.errors import ConfigError, UsageError
from genmm.systems.sled.request import SpeechRequest, SpeechSettings, lines_of


def test_takes_have_seeds_that_follow_from_the_first():
    first = SpeechRequest(text="x", seed=5, takes=3).take_seeds()
    assert first[0] == 5 and len(set(first)) == 3
    assert SpeechRequest(text="x", seed=5, takes=3).take_seeds() == first
    assert SpeechRequest(text="x", seeds=(4, 9)).take_seeds() == (4, 9)
    assert SpeechRequest(text="x").take_seeds() != SpeechRequest(text="x").take_seeds()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"takes": 0}, "1 to 16"),
        ({"takes": True}, "1 to 16"),
        ({"seed": -1}, "seed"),
        ({"seeds": (1, 2), "takes": 3}, "2 seeds for 3 takes"),
        ({"seeds": (1,), "seed": 1}, "not both"),
    ],
)
def test_seeds_and_takes_must_agree(fields, words):
    with pytest.raises(UsageError, match=words):
        SpeechRequest(text="x", **fields).take_seeds()


def test_settings_of_a_request_go_before_those_of_the_checkpoint():
    defaults = SpeechSettings(guidance=1.5, temperature=0.8)
    request = SpeechRequest(text="x", guidance=3.0, settings={"draws": 4})
    settings = request.resolved(defaults)
    assert (settings.guidance, settings.temperature, settings.draws) == (3.0, 0.8, 4)


def test_unknown_and_bad_settings_are_named():
    with pytest.raises(UsageError, match="guidence"):
        SpeechSettings().changed({"guidence": 2})
    with pytest.raises(UsageError, match="guidance must be from 0 to 10"):
        SpeechSettings(guidance=float("nan"))
    with pytest.raises(ConfigError, match="defaults"):
        SpeechSettings.from_dict({"cloning": "magic"})


def test_the_cap_grows_with_the_text_and_fits_slow_spelling():
    settings = SpeechSettings()
    assert settings.longest_s("A B C D E.") >= 5 * 0.6
    assert settings.longest_s("one two.") < settings.longest_s("one two three four five six.")
    rule = SpeechSettings(min_s=0.5, collapse_s=1.0).stop_rule("one two.", 25.0)
    assert (rule.min_frames, rule.collapse_frames) == (13, 25)
    assert SpeechSettings(max_s=2.0).stop_rule("one two.", 25.0).max_frames == 50


def test_lines_have_their_own_seeds():
    lines = lines_of(0, ["a", "b"], (7, 8))
    assert [(line.take, line.part) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert lines[0].seed == 7 and len({line.seed for line in lines}) == 4
    assert lines[0].attempt_seed(0) == 7 and lines[0].attempt_seed(1) != lines[0].attempt_seed(2)
