"""`genmm app`: the web page."""

from __future__ import annotations

import argparse
import os

from genmm.core.errors import UsageError

DESCRIPTION = """\
Serve the web page: type a text and hear it while it is being made, give a few
seconds of a voice and hear that voice, run batches, see the state of the machine.

The page listens on this machine alone unless told otherwise. It needs no network."""
EPILOG = """\
examples:
  genmm app                                    http://127.0.0.1:7860
  genmm app --port 8080 --open                 another port; opens the browser
  genmm app --model ./runs/mine/checkpoint     start with your own checkpoint
  GENMM_AUTH=ann:secret genmm app --host 0.0.0.0
                                               for others in the network, with a password

Ctrl-C ends the server."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("app", help="serve the web page", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=int, default=7860, help="port, 1 to 65535; default: 7860")
    parser.add_argument(
        "--auth",
        action="append",
        metavar="USER:PASSWORD",
        help="let in visitors with this name and password; may be repeated. Better set the variable GENMM_AUTH "
        "(several with spaces between), which `ps` does not show",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow an address other than this machine without a password"
    )
    parser.add_argument("--model", metavar="NAME|FOLDER", help="model to start with; see `genmm models`")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N, mps; default: auto")
    parser.add_argument(
        "--queue",
        type=int,
        default=32,
        metavar="N",
        help="jobs that may wait, at least 1; more are sent away. Default: 32",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not 1 <= args.port <= 65535:
        raise UsageError(f"--port must be from 1 to 65535, got {args.port}")
    if args.queue < 1:
        raise UsageError(f"--queue must be at least 1, got {args.queue}")
    logins = [_login(text) for text in args.auth or os.environ.get("GENMM_AUTH", "").split()]
    from app.web.main import serve

    serve(
        args.host,
        args.port,
        auth=logins or None,
        insecure=args.insecure,
        model=args.model,
        queue_max=args.queue,
        open_browser=args.open,
        device=args.device,
    )
    return 0


def _login(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    if not (user and password):
        raise UsageError("--auth and GENMM_AUTH are written USER:PASSWORD, both not empty")
    return user, password
