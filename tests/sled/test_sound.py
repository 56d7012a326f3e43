"""From latents to sound: pieces, prompts and joins."""

import numpy as np
import torch

from genmm.systems.sled.sound import FADE_S, TakeSound


def latents(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, 6, generator=torch.Generator().manual_seed(seed))


def test_one_part_is_exactly_the_decode(tiny_codec):
    whole, sound = latents(12), TakeSound(tiny_codec, 1, 0.1)
    sound.begin_part(None)
    pieces = [sound.push(piece) for piece in whole.split([1, 4, 7])] + [sound.end_part()]
    np.testing.assert_allclose(np.concatenate(pieces), tiny_codec.decode(whole[None])[0].numpy(), atol=1e-5)


def test_the_prompt_warms_the_codec_up_and_is_cut_off(tiny_codec):
    prompt, new, sound = latents(5), latents(6, 1), TakeSound(tiny_codec, 1, 0.1)
    sound.begin_part(prompt)
    heard = np.concatenate([sound.push(new), sound.end_part()])
    both = tiny_codec.decode(torch.cat((prompt, new))[None])[0].numpy()
    np.testing.assert_allclose(heard, both[5 * tiny_codec.hop_samples :], atol=1e-5)


def test_parts_are_joined_by_fades_and_a_pause(tiny_codec):
    parts, sound = [latents(6), latents(4, 1)], TakeSound(tiny_codec, 2, 0.1)
    pieces = []
    for part in parts:
        sound.begin_part(None)
        pieces += [sound.push(frame) for frame in part.split(1)] + [sound.end_part()]
    heard = np.concatenate(pieces)
    decoded = [tiny_codec.decode(part[None])[0].numpy() for part in parts]
    pause, fade = int(0.1 * tiny_codec.sample_rate), int(FADE_S * tiny_codec.sample_rate)
    first, second = len(decoded[0]), len(decoded[0]) + pause
    assert len(heard) == second + len(decoded[1])
    np.testing.assert_allclose(heard[: first - fade], decoded[0][:-fade], atol=1e-5)
    assert not heard[first:second].any()
    np.testing.assert_allclose(heard[second + fade :], decoded[1][fade:], atol=1e-5)
    assert abs(heard[second]) < 1e-6 and abs(heard[first - 1]) < 1e-6


def test_an_empty_part_is_silence_only(tiny_codec):
    sound = TakeSound(tiny_codec, 2, 0.1)
    sound.begin_part(None)
    assert len(sound.end_part()) == int(0.1 * tiny_codec.sample_rate)
