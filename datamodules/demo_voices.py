"""The voices of the embedded speech model, made from real recordings: python -m datamodules.demo_voices CODEC OUT

Each voice is a few utterances of one speaker, one after the other, up to twelve seconds; only recordings of the
training part are taken.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.speech_corpora import CORPORA, Utterance, read_corpus
from genmm.core.errors import DataError
from genmm.core.paths import data_home
from genmm.systems.sled.codec import SpeechCodec
from genmm.systems.sled.voice import LONGEST_S, Voice, encode_voice

VOICES: dict[str, tuple[str, str]] = {
    "callie": ("speech_callie", "callie"),
    "linda": ("speech_readings", "reading-lj"),
    "fay": ("speech_an4", "an4-fclc"),
    "fiona": ("speech_an4", "an4-ffmm"),
    "mark": ("speech_an4", "an4-mtje"),
    "max": ("speech_an4", "an4-mdmc"),
    "nora": ("speech_an4", "an4-fmjd"),
    "paul": ("speech_an4", "an4-msrb"),
}
"""Name of the voice -> corpus and speaker. The names are ours; the corpora know the speakers by codes only."""
GAP_S = 0.15
"""Silence between two utterances."""


def choose(utterances: Sequence[Utterance], sample_rate: int) -> list[Utterance]:
    """Utterances of two seconds and more, in order, as fit into the longest voice, else shorter ones."""
    usable = [one for one in utterances if len(one.waveform) >= 2 * sample_rate] or list(utterances)
    chosen: list[Utterance] = []
    for one in usable:
        total = sum(len(other.waveform) for other in (*chosen, one)) / sample_rate + GAP_S * len(chosen)
        if total < LONGEST_S - 0.2 and len(chosen) < 3:
            chosen.append(one)
    return chosen


def make_voice(name: str, utterances: Sequence[Utterance], codec: SpeechCodec) -> Voice:
    """One voice of the chosen utterances of one speaker. Raises: DataError when there are none."""
    chosen = choose(utterances, codec.sample_rate)
    if not chosen:
        raise DataError(f"there is no recording short enough for the voice {name}")
    gap = np.zeros(int(GAP_S * codec.sample_rate), dtype=np.float32)
    parts = [part for one in chosen for part in (one.waveform.astype(np.float32) / 32768.0, gap)][:-1]
    return encode_voice(
        np.concatenate(parts),
        codec.sample_rate,
        codec,
        transcript=" ".join(one.text.strip() for one in chosen),
        name=name,
        licence=CORPORA[chosen[0].corpus].licence,
        source=", ".join(one.key for one in chosen),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write every voice as NAME.json and NAME.safetensors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", type=Path, help="folder of the speech codec")
    parser.add_argument("out", type=Path, help="folder for the voices")
    args = parser.parse_args(argv)
    codec = SpeechCodec.from_folder(args.codec)
    for corpus in dict.fromkeys(corpus for corpus, _ in VOICES.values()):
        spoken = [one for one in read_corpus(data_home(), corpus, codec.sample_rate) if one.split == "train"]
        for name, (own_corpus, speaker) in VOICES.items():
            if own_corpus == corpus:
                voice = make_voice(name, [one for one in spoken if one.speaker == speaker], codec)
                print(f"{name}: {voice.seconds:.1f} s, {voice.transcript}")
                voice.save(args.out)


if __name__ == "__main__":
    main()
