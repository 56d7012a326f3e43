"""`genmm speak`: a text in, a sound file out, or sound that streams while it is made."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.notes import say
from app.options import read_setting
from app.standard_input import read_standard_input
from genmm.core.errors import UsageError
from genmm.core.files import check_target, free_name
from genmm.core.limits import clean_text
from genmm.core.seeds import check_seed
from genmm.core.suggest import did_you_mean
from genmm.media.recipes import find_recipe

if TYPE_CHECKING:
    from app.progress import ProgressDisplay
    from genmm.systems.sled.pipeline import SledPipeline
    from genmm.systems.sled.result import SpeechResult

DESCRIPTION = """\
Speak a text. The file's recipe (text, voice, settings, seed, model) is written beside
it as .json and inside it; --recipe makes the same speech again."""
EPILOG = """\
examples:
  genmm speak "seven four one" -o out.wav
  genmm speak "Please hold the line." --takes 3 --seed 7        three versions: speech_1.wav ...
  genmm speak "Good morning." --voice ann.wav --transcript "Hello, I am Ann."
  genmm speak --recipe out.json -o again.wav                    the same once more
  genmm speak --recipe out.json "eight nine" --temperature 0.7  the same, but this text, calmer
  genmm speak - -o out.flac < letter.txt                        the text from standard input
  genmm speak "hello" --stream -o - | ffplay -nodisp -          hear it while it is made
  genmm speak "hello" --stream raw -o - | aplay -f S16_LE -r 16000 -c 1

voices of the model: genmm models sled; what was read and how it ended is in the recipe."""
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("speak", help="speak a text", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("text", nargs="?", help="what to say, at most 2000 characters; - reads standard input")
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", metavar="FILE", help=".wav, .flac, .mp3 or .ogg; default: speech.wav, or a free name"
    )
    group.add_argument(
        "--stream",
        nargs="?",
        const="wav",
        choices=("wav", "raw"),
        help="write the sound while it is made, into a growing file or, with -o -, to standard output; "
        "raw is 16-bit little endian mono without a header",
    )
    group = parser.add_argument_group("voice")
    group.add_argument(
        "--voice",
        metavar="NAME|FILE",
        help='a voice of the model, or a recording of 1 to 12 seconds (3 to 10 are best); "" for no voice. '
        "Default: the model's",
    )
    group.add_argument("--transcript", metavar="TEXT", help="what is said in the recording, where the model needs it")
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--seed", type=int, metavar="N", help="seed of the first take, 0 to 2**63 - 1; default: a new one"
    )
    group.add_argument("--takes", type=int, metavar="N", help="versions, 1 to 16; default: 1")
    group.add_argument(
        "--guidance", type=float, metavar="X", help="how strongly the text is followed, 0 to 10; 1 is off. Default: 2"
    )
    group.add_argument(
        "--temperature", type=float, metavar="X", help="variety of the voice, 0 to 4; lower is calmer. Default: 1"
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other speech setting, such as pause_s=0.3 or extra_frames=4; may be repeated",
    )
    group.add_argument("--recipe", metavar="FILE", help="start from the recipe of a file (.json or the sound itself)")
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME|FOLDER", help="see `genmm models`; default: sled")
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    group.add_argument(
        "--dtype", default="auto", metavar="NAME", help="auto, float32, bfloat16 or float16; default: auto"
    )
    group.add_argument(
        "--packing",
        default="auto",
        choices=("auto", "live", "split", "float16", "int8"),
        help="how a CPU reads the weights of a float32 model: as they are (live), as two float16 parts (split, as "
        "exact and faster), in fewer bytes (float16) or, least exact, int8. Default: auto, float16 where that loses "
        "nothing, else split",
    )


def run(args: argparse.Namespace) -> int:
    """Speak, save, say what was made."""
    output = _checked_output(args)
    recipe = find_recipe(args.recipe) if args.recipe else None
    wanted = _wanted(args, recipe)
    from app.progress import ProgressDisplay
    from genmm.core.events import Progress

    with ProgressDisplay("speaking") as show:
        show(Progress(0, None, "", "loading the model"))
        pipeline = _load(args, recipe)
        wanted["voice"] = _voice(args, recipe, pipeline)
        if args.stream:
            result = _stream(pipeline, wanted, output, args.stream, show)
        else:
            result = pipeline.generate(**wanted, on_event=show)
    paths = _save(result, output, streamed=bool(args.stream))
    _tell(result, paths)
    return 0


# ---------------------------------------------------------------- what is asked for


def _checked_output(args: argparse.Namespace) -> Path | str:
    output = args.output or free_name("speech.raw" if args.stream == "raw" else "speech.wav")
    if output == "-":
        if not args.stream:
            raise UsageError("-o - writes to standard output and needs --stream; give a file name otherwise")
        if sys.stdout.isatty():
            raise UsageError("standard output is a terminal; pipe the sound into a player, such as: | ffplay -nodisp -")
        return output
    sources = [Path(args.voice).expanduser()] if args.voice else []
    path = check_target(output, sources=sources, several=bool(args.recipe or (args.takes or 1) > 1))
    if args.stream == "wav" and path.suffix.lower() != ".wav":
        raise UsageError(f"--stream wav writes .wav files, got {path.name!r}; use --stream raw for bare samples")
    if not args.stream and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"sound is written as {', '.join(SUFFIXES)}, got {path.name!r}; change the suffix")
    return path


def _wanted(args: argparse.Namespace, recipe: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the pipeline, without the voice; options go before the recipe."""
    settings: dict[str, Any] = {}
    if recipe:
        if recipe["task"] != "speech":
            raise UsageError(f"{args.recipe} is a recipe for {recipe['task']}, not for speech")
        settings |= _known_settings(recipe["settings"])
    settings |= dict(read_setting(text) for text in args.set)
    text = clean_text(_text(args, recipe))  # before the model is loaded, which takes seconds
    if args.seed is not None:
        check_seed(args.seed)
    takes, seeds = args.takes, ()
    if recipe and args.seed is None and takes in (None, len(recipe["seeds"])):
        seeds = tuple(recipe["seeds"])
    if takes is None:
        takes = len(seeds) or (recipe["settings"].get("takes", 1) if recipe else 1)
    if args.stream and takes != 1:
        raise UsageError(f"--stream sends one take, got {takes}; leave --takes out")
    return {
        "text": text,
        "settings": settings,
        "guidance": args.guidance,
        "temperature": args.temperature,
        "seed": args.seed,
        "seeds": seeds,
        "takes": takes,
    }


def _text(args: argparse.Namespace, recipe: dict[str, Any] | None) -> str:
    if args.text == "-":
        return read_standard_input(100_000)
    text = args.text if args.text is not None else recipe["settings"].get("text") if recipe else None
    if not isinstance(text, str):
        raise UsageError('what is to be said? Write: genmm speak "seven four one" -o out.wav')
    return text


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The speech settings of a recipe, without what stands beside them (text, takes, voice, precision)."""
    import dataclasses

    from genmm.systems.sled.request import SpeechSettings

    names = {entry.name for entry in dataclasses.fields(SpeechSettings)} - {"voice"}
    return {name: value for name, value in settings.items() if name in names}


# ---------------------------------------------------------------- model, voice, sound


def _load(args: argparse.Namespace, recipe: dict[str, Any] | None) -> SledPipeline:
    import genmm

    named = recipe["model"].get("name") if recipe else None
    pipeline = genmm.load(args.model or named or "sled", device=args.device, dtype=args.dtype, packing=args.packing)
    if pipeline.system != "sled":
        raise UsageError(f"model {pipeline.name} is of the system {pipeline.system}, which does not speak")
    if recipe and recipe["model"].get("fingerprint") != pipeline.model["fingerprint"]:
        say(f"the recipe was made with another version of the model ({named}); the speech will differ")
    return pipeline


def _voice(args: argparse.Namespace, recipe: dict[str, Any] | None, pipeline: SledPipeline) -> Any:
    voice = args.voice
    if voice is None and recipe:
        voice = recipe["settings"].get("voice")
        if voice and voice not in pipeline.voices:
            raise UsageError(
                f"the recipe uses the voice {voice!r}, which model {pipeline.name} has not; "
                "give the recording again with --voice FILE"
            )
    if args.transcript is not None and (not voice or voice in pipeline.voices):
        raise UsageError("--transcript belongs to a recording; give one with --voice FILE")
    if not voice or voice in pipeline.voices:
        return voice
    if not Path(voice).expanduser().is_file():
        names = ", ".join(pipeline.voices) or "none"
        guess = did_you_mean(voice, pipeline.voices)
        raise UsageError(f"there is no voice or file {voice!r}; voices of model {pipeline.name}: {names}{guess}")
    from genmm.media.audio import read_audio

    audio = read_audio(Path(voice).expanduser())
    for note in audio.notes:
        say(note)
    return pipeline.voice(audio.samples, audio.sample_rate, args.transcript)


def _stream(
    pipeline: SledPipeline, wanted: dict[str, Any], output: Path | str, kind: Any, show: ProgressDisplay
) -> SpeechResult:
    from contextlib import closing

    from app.audio_stream import AudioStream
    from genmm.core.events import PartialAudio, drain

    with AudioStream(output, kind) as sound, closing(pipeline.events(**wanted)) as events:
        return drain(events, lambda event: sound.write(event) if isinstance(event, PartialAudio) else show(event))


def _save(result: SpeechResult, output: Path | str, *, streamed: bool) -> list[Path]:
    if output == "-":
        return []
    if streamed:
        result.save_recipe(output)
        return [Path(output)]
    return [path for path in result.save(output) if path.suffix != ".json"]


def _tell(result: SpeechResult, paths: list[Path]) -> None:
    """Paths on stdout, for scripts; everything else on stderr."""
    total = result.timings.get("total_s", 0.0)
    speed = f", {sum(result.seconds) / total:.1f} times real time" if total else ""
    for path in paths:
        print(path)
    for take, (seconds, seed) in enumerate(zip(result.seconds, result.seeds, strict=True), start=1):
        name = f"take {take}: " if len(result.seeds) > 1 else ""
        say(f"{name}{seconds:.2f} s of speech, seed {seed}")
    say(f'"{result.text_spoken}" by {result.model["name"]} in {total:.2f} s{speed}')
    for note in result.notes:
        say(note)
