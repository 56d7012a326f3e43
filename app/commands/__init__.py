"""The subcommands of `genmm`, one module each: `add_parser(subparsers)` and `run(args) -> exit code`.

Modules import nothing heavy at their top; `run` does.
"""
