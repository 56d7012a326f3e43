"""`genmm convert`: checkpoints as their authors publish them -> checkpoint folders of genmm."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Turn a published checkpoint, fetched by hand, into a folder that --model takes.
`genmm pull` does the same including the download. Weights keep their values and
number format; nothing in a pickle (.bin, .pt, .ckpt) is ever run. The new folder appears
only after the model in it has made something."""
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

VQTOKEN_DESCRIPTION = """\
Convert haichaozhang/VQ-Token-llava-ov-0.5b: vision tower, projector, language model and the
attention block. Needs config.json, model.safetensors (or its shards) and the tokenizer's files."""
VQTOKEN_EPILOG = """\
example:
  genmm convert vqtoken VQ-Token-llava-ov-0.5b my-vqtoken
  genmm ask holiday.mp4 "What happens?" --model ./my-vqtoken"""

MELODYFLOW_DESCRIPTION = """\
Convert facebook/melodyflow-t24-30secs together with its text encoder, t5-base.

From the MelodyFlow repository: state_dict.bin and compression_state_dict.bin. These are
pickles; they are read by an interpreter that knows tensors and plain containers alone and
runs nothing. From t5-base: config.json, model.safetensors, tokenizer.json."""
MELODYFLOW_EPILOG = """\
example:
  genmm convert melodyflow melodyflow-t24-30secs my-music --t5 t5-base
  genmm compose "calm piano, 90 bpm" --model ./my-music --seconds 20 -o piano.flac"""


TOKENSET_DESCRIPTION = """\
Convert the published TokenSet weights: set_tokenizer_128_4096.pth together with
fsdd_small_128_4096.pth or fsdd_base_128_4096.pth, from the Google Drive folder that
github.com/Gengzigang/TokenSet links to. The .pth files are taken apart as data; no code
in them is run. Without a generator file the new folder holds the tokenizer alone."""


def _add_tokenset(systems: argparse._SubParsersAction) -> None:
    parser = systems.add_parser("tokenset", help="TokenSet, small or base", description=TOKENSET_DESCRIPTION)
    parser.add_argument("official", metavar="OFFICIAL", type=Path, help="folder with the published files")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--size", choices=("small", "base"), default="small", help="which generator; default: small")
    parser.add_argument("--licence", default="", metavar="TEXT", help="licence of the weights, for `genmm models`")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a checkpoint folder")


def _convert_tokenset(args: argparse.Namespace) -> int:
    from app.progress import ProgressDisplay
    from genmm.systems.tokenset.convert import convert_tokenset

    with ProgressDisplay("converting") as show:
        more = {"size": args.size, "licence": args.licence, "overwrite": args.overwrite}
        print(convert_tokenset(args.official, args.out, **more, on_event=show))
    return 0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "convert", help="turn published checkpoints into folders of genmm", description=DESCRIPTION
    )
    systems = parser.add_subparsers(dest="system", metavar="SYSTEM", required=True, title="systems")
    _add_tokenset(systems)
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
    video = systems.add_parser(
        "vqtoken", help="VQToken on LLaVA-OneVision", description=VQTOKEN_DESCRIPTION, epilog=VQTOKEN_EPILOG
    )
    video.add_argument("official", metavar="OFFICIAL", type=Path, help="folder with the files of the repository")
    video.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    video.add_argument("--licence", default="", metavar="TEXT", help="licence of the weights, for `genmm models`")
    video.add_argument("--overwrite", action="store_true", help="replace OUT if it is a checkpoint folder")
    _add_melodyflow(systems)


def _add_melodyflow(systems: argparse._SubParsersAction) -> None:
    music = systems.add_parser(
        "melodyflow", help="MelodyFlow with T5", description=MELODYFLOW_DESCRIPTION, epilog=MELODYFLOW_EPILOG
    )
    music.add_argument("official", metavar="OFFICIAL", type=Path, help="folder with the files of the repository")
    music.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    t5 = "folder with the files of t5-base; default: t5-base in or beside OFFICIAL"
    music.add_argument("--t5", type=Path, metavar="FOLDER", help=t5)
    music.add_argument("--licence", default="", metavar="TEXT", help="licence of the weights, for `genmm models`")
    music.add_argument("--overwrite", action="store_true", help="replace OUT if it is a checkpoint folder")


def run(args: argparse.Namespace) -> int:
    """Convert and say where the model is."""
    if args.system == "tokenset":
        return _convert_tokenset(args)
    from app.progress import ProgressDisplay

    if args.system == "melodyflow":
        from genmm.systems.melodyflow.convert import convert_melodyflow

        with ProgressDisplay("converting") as show:
            options = {"licence": args.licence, "overwrite": args.overwrite}
            print(convert_melodyflow(args.official, args.t5, args.out, on_event=show, **options))
        return 0

    if args.system == "vqtoken":
        return _run_vqtoken(args)
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


def _run_vqtoken(args: argparse.Namespace) -> int:
    from app.progress import ProgressDisplay
    from genmm.systems.vqtoken.convert import convert_vqtoken

    with ProgressDisplay("converting") as show:
        options = {"licence": args.licence, "overwrite": args.overwrite}
        print(convert_vqtoken(args.official, args.out, on_event=show, **options))
    return 0
