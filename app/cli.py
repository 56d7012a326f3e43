"""The `genmm` command: finds the subcommand, runs it, and turns errors into one message and an exit code.

Exit codes: 0 done, 1 a fault in genmm, 2 wrong usage or unusable input, 3 some items failed, 130 interrupted,
143 stopped by SIGTERM. A command is a module in app/commands with `add_parser(subparsers)` and `run(args) -> int`;
importing it must be light, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import genmm
from app import commands
from app.notes import say
from genmm.core.errors import GenmmError
from genmm.core.suggest import did_you_mean

ORDER = (
    "app",
    "speak",
    "tokenize",
    "index",
    "ask",
    "batch",
    "models",
    "pull",
    "convert",
    "training",
    "evaluate",
    "bench",
    "doctor",
)
"""Modules of app/commands in the order of the help; others follow alphabetically."""
TRAINING = ("fit", "resume", "validate", "test", "export")
"""Commands of the trainer, which handles its own signals."""
PASS_THROUGH = (*TRAINING, "bench")
"""Commands that parse the rest of the line themselves."""

DESCRIPTION = """\
Generate and edit speech, music, images and video tokens, and find highlights, on
your own machine: in the browser, on the command line, or in batches over manifests;
train and measure the models behind it."""
EPILOG = """\
first steps:
  genmm app                                   open the web page on http://127.0.0.1:7860
  genmm speak "seven four one" -o out.wav     write a sound file
  genmm doctor                                what is installed, what is missing, how to get it

`genmm COMMAND --help` explains each command with examples.
exit codes: 0 done, 2 wrong usage, 3 some items failed, 130 interrupted, 143 stopped by SIGTERM.
GENMM_DEBUG=1 shows the full traceback of an error."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as written and gives the options room."""

    def __init__(self, prog: str, **more: object) -> None:
        super().__init__(prog, max_help_position=30, width=min(110, max(60, _columns() - 2)), **more)  # type: ignore[arg-type]


class Parser(argparse.ArgumentParser):
    """A parser that guesses which of its choices a mistyped word was meant to be."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        guess = did_you_mean(str(value), known)
        raise argparse.ArgumentError(action, f"there is no {value!r}{guess or '; choose from ' + ', '.join(known)}")

    def _match_arguments_partial(self, actions: Sequence[argparse.Action], arg_strings_pattern: str) -> list[int]:
        """How many words each positional takes; one that may be left out waits for a word behind the options.

        Python 3.11 takes it for left out at the first option, and then knows nothing of the word.
        """
        counts = super()._match_arguments_partial(actions, arg_strings_pattern)  # type: ignore[misc]
        while counts and counts[-1] == 0 and "A" in arg_strings_pattern[sum(counts) :]:
            counts.pop()
        return counts


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code and never shows a traceback for a user's mistake."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("GENMM_DEBUG", "") not in ("", "0")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="genmm: %(message)s")
    try:
        return _run(argv)
    except SystemExit as exit_request:  # argparse ends this way, and so does SIGTERM
        return exit_request.code if isinstance(exit_request.code, int) else 0 if exit_request.code is None else 2
    except BrokenPipeError:  # the reader of our output has gone, as in `genmm models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        say("interrupted")
        return _raise_or(130, debug)
    except GenmmError as error:
        say(str(error))
        return _raise_or(error.exit_code, debug)
    except OSError as error:
        if error.filename is None:
            raise
        say(f"{error.filename}: {error.strerror}")
        return _raise_or(2, debug)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        say("memory ran out; use a shorter text, fewer takes, a smaller batch, or --device cpu")
        return _raise_or(3, debug)


def build_parser(word: str = "") -> argparse.ArgumentParser:
    """The parser of the command that `word` names, or of all of them; light, so that help answers at once."""
    parser = Parser(
        prog="genmm", description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"genmm {genmm.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for module in command_modules(word):
        before = set(subparsers.choices)
        module.add_parser(subparsers)
        for name in set(subparsers.choices) - before:
            subparsers.choices[name].set_defaults(module=module)
            _format_like(parser, subparsers.choices[name])
    return parser


def _format_like(parent: argparse.ArgumentParser, child: argparse.ArgumentParser) -> None:
    """Give a subcommand, and what lies below it, the layout of the whole command and no abbreviated options."""
    child.formatter_class, child.allow_abbrev = parent.formatter_class, parent.allow_abbrev
    for action in child._actions:
        if isinstance(action, argparse._SubParsersAction):
            for grandchild in action.choices.values():
                _format_like(child, grandchild)


def command_modules(word: str = "") -> list[ModuleType]:
    """The module of app/commands that `word` names, or all in help order when it names none."""
    names = [entry.name for entry in pkgutil.iter_modules(commands.__path__)]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    home = "training" if word in TRAINING else word
    return [import_module(f"app.commands.{name}") for name in ([home] if home in names else names)]


def _run(argv: list[str]) -> int:
    passes_through = bool(argv) and argv[0] in PASS_THROUGH
    args = _parsed(argv[:1] if passes_through else argv)
    args.rest = argv[1:] if passes_through else []
    if args.command not in TRAINING:
        _exit_on_sigterm()
    return args.module.run(args)


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Parse; an unknown option ends with the usage of the subcommand it was given to, and a guess."""
    parser = build_parser(argv[0] if argv else "")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        leaf = _leaf(parser, args)
        option = unknown[0].partition("=")[0]
        leaf.error(f"unknown argument: {' '.join(unknown)}{did_you_mean(option, leaf._option_string_actions)}")
    return args


def _leaf(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.ArgumentParser:
    """The innermost subcommand that was chosen."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return _leaf(action.choices[getattr(args, action.dest)], args)
    return parser


def _exit_on_sigterm() -> None:
    """Let `finally` blocks run on SIGTERM, so that no half-written file stays."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _raise_or(exit_code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    return exit_code


def _is_out_of_memory(error: Exception) -> bool:
    from genmm.batch.execute import is_out_of_memory

    return is_out_of_memory(error)


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


if __name__ == "__main__":
    sys.exit(main())
