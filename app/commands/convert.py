"""`genmm convert`: checkpoints as their authors publish them -> checkpoint folders of genmm."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Turn a published checkpoint, fetched by hand, into a folder that --model takes.
`genmm pull` does the same including the download. Weights keep their values and
number format; pickles (.bin, .pt, .ckpt) are never opened. The new folder appears
only after the model in it has spoken a moment of sound."""
SLED_DESCRIPTION = """\
Convert SLED-TTS (ICTNLP/SLED-TTS-Libriheavy or -Streaming-Libriheavy) together with
its codec, EnCodec 24 kHz (facebook/encodec_24khz).

From the SLED repository: config.json, model.safetensors, vocab.json, merges.txt, and
tokenizer_config.json if there. From the codec's: config.json, model.safetensors."""
SLED_EPILOG = """\
examples:
  genmm convert sled SLED-TTS-Libriheavy my-sled --codec encodec_24khz
  genmm speak "Good morning." --model ./my-sled -o morning.wav

Written to ~/.cache/genmm/models/NAME ($GENMM_HOME/models/NAME), the model is listed by
`genmm models`, and --model NAME finds it from everywhere."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "convert", help="turn published checkpoints into folders of genmm", description=DESCRIPTION
    )
    systems = parser.add_subparsers(dest="system", metavar="SYSTEM", required=True, title="systems")
    sled = systems.add_parser(
        "sled", help="SLED-TTS, offline or streaming, with EnCodec", description=SLED_DESCRIPTION, epilog=SLED_EPILOG
    )
    sled.add_argument("official", metavar="OFFICIAL", type=Path, help="folder with the files of the SLED repository")
    sled.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    sled.add_argument(
        "--codec",
        type=Path,
        metavar="FOLDER",
        help="folder with the files of facebook/encodec_24khz; default: encodec_24khz or encodec in or beside "
        "OFFICIAL, else the cache of huggingface_hub",
    )
    sled.add_argument(
        "--layout",
        choices=("offline", "streaming"),
        help="which of the two models it is; default: read from config.json and tokenizer_config.json",
    )
    sled.add_argument("--licence", default="", metavar="TEXT", help="licence of the weights, for `genmm models`")
    sled.add_argument("--overwrite", action="store_true", help="replace OUT if it is a checkpoint folder")


def run(args: argparse.Namespace) -> int:
    """Convert and say where the model is."""
    from app.progress import ProgressDisplay
    from genmm.systems.sled.convert import convert_sled

    with ProgressDisplay("converting") as show:
        out = convert_sled(
            args.official,
            args.codec,
            args.out,
            layout=args.layout,
            licence=args.licence,
            overwrite=args.overwrite,
            on_event=show,
        )
    print(out)
    return 0
