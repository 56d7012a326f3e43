"""What a wrong configuration is told: the place, what is wrong, what is allowed; not the parser's inner life."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable

from app.train import ALLOWED_IMPORTS

NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes: |Errors:$|Given value|"
    r"Expected a <class 'NoneType'>|Not a valid subclass of|Subclass types expect one of|a (class path|dict) "
)
PLACE = re.compile(r'Parser key "([^"]+)":?\s*|Problem with given class_path \'([^\']+)\':?')
DENIED = re.compile(r"Importing '([^']+)' is not allowed")
UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
UNRECOGNISED = re.compile(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'")


def readable(text: str, options: Iterable[str] = ()) -> str:
    """Turn the text of a jsonargparse error into one line a person can act on.

    Args:
        text: What jsonargparse says, often a nested list of everything that it tried.
        options: All command-line options, to suggest the right spelling of a wrong one.
    """
    denied = DENIED.search(text)
    if denied:
        return (
            f"the configuration names {denied[1]}, which a configuration may not import; allowed are "
            f"{', '.join(ALLOWED_IMPORTS)}; for your own code that you trust, add --allow_import PACKAGE"
        )
    lines = [line.strip().removeprefix("- ") for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not NOISE.match(line)] or lines
    message = ": ".join(PLACE.sub(lambda m: m[1] or m[2], line).strip(" :") for line in kept)
    message = re.sub(r"Expected an? <class '([\w.]+)'>\. Got value: ", r"expected \1, got ", message)
    return message + suggestion(text, options)


def suggestion(text: str, options: Iterable[str]) -> str:
    """The nearest right name for an unknown one in `text`, as an extra sentence; "" when there is none."""
    unknown, place = UNKNOWN.search(text), re.findall(r"class_path '([\w.]+)'", text)
    if unknown and place:
        return nearest(unknown[1], parameters_of(place[-1]))
    unrecognised = UNRECOGNISED.search(text)
    return nearest(f"--{unrecognised[1] or unrecognised[2]}", options) if unrecognised else ""


def nearest(word: str, names: Iterable[str]) -> str:
    """ "; did you mean X?" or, without a near name, the list of a few."""
    names = sorted(set(names))
    close = difflib.get_close_matches(word, names, n=3)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; it takes {', '.join(names)}" if 0 < len(names) <= 40 else ""


def parameters_of(class_path: str) -> list[str]:
    """Names of the parameters of an imported class; nothing is imported for it."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return [p for p in inspect.signature(found).parameters if p != "self"] if found is not None else []
