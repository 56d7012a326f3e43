"""Sound out of nothing for debugging: it carries the letters, and its batches fit the task."""

from __future__ import annotations

import pytest
import torch

from datamodules.spoken_letters import FORMANTS_HZ, SpokenLetters, byte_tokenizer, speak_letters, untrained_codec


@pytest.mark.parametrize("letter", ["a", "o", "u"])
def test_a_letter_has_its_resonances_and_its_pitch(letter):
    sound = speak_letters(letter, 100.0)
    spectrum = torch.fft.rfft(sound * torch.hann_window(len(sound)), n=16000).abs()  # one bin a hertz
    assert min(abs(int(spectrum.argmax()) - resonance) for resonance in FORMANTS_HZ[letter]) <= 70
    peaks = torch.tensor([int(spectrum[k * 100 - 50 : k * 100 + 50].argmax()) - 50 for k in range(3, 9)])
    assert peaks.abs().max() <= 8  # harmonics of 100 Hz


def test_latents_of_the_untrained_codec_are_standardised_and_tell_letters_apart():
    codec = untrained_codec(8)
    means = []
    for letter in "aiu":
        latents = torch.cat([codec.encode(speak_letters(letter * 4, pitch)[None])[0] for pitch in (100.0, 140.0)])
        means.append(latents.mean(0))
        assert latents.abs().max() < 20
    assert min(torch.dist(means[i], means[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.5


def test_the_codec_is_the_same_every_time_and_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    first, second = untrained_codec(4), untrained_codec(4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_hold_texts_and_their_sound(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMM_HOME", str(tmp_path))
    data = SpokenLetters(utterances=12, letters=3, channels=6, batch_size=4)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sum(len(batch["ids"]) for batch in batches) == 12
    tokenizer = byte_tokenizer()
    for batch in batches:
        assert batch["latents"].shape[2] == 6 and batch["voice"].shape[1] == 12
        for row in range(len(batch["ids"])):
            letters = tokenizer.decode(batch["ids"][row][batch["text_mask"][row]].tolist())
            assert set(letters) <= set(FORMANTS_HZ)
            assert int(batch["frame_mask"][row].sum()) == 3 * len(letters)  # 0.12 s a letter at 25 frames a second
