"""What pydantic refuses, in the words of YAML: the same for a config, a command line and a call from Python."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["close_to", "worded"]

_FORMS = [
    (re.compile("a valid tuple"), "a list"),
    (re.compile("a valid dictionary"), "a mapping"),
    (re.compile(r"( or|,)? (an )?instance of \w+"), ""),
    (re.compile("a valid boolean, unable to interpret input|a valid boolean"), "true or false"),
    (re.compile("a valid integer, unable to parse string as an integer|a valid integer"), "a whole number"),
    (re.compile("a valid number, unable to parse string as a number|a valid number"), "a number"),
    (re.compile("a valid string"), "text"),
    (re.compile(r"^tuple should have at (most|least) (\d+) items? after validation, not (\d+)"),
     r"should have at \1 \2 items, not \3 (a comma separates items; decimals take a point)"),
]  # fmt: skip
"""What pydantic says -> what is meant in YAML."""
_QUOTED = re.compile("'([^']*)'")


def worded(problem: Any) -> str:
    """One of pydantic's errors (of ``ValidationError.errors()``) as a clause, with the value that was given.

    Example:
        >>> worded({"type": "less_than_equal", "msg": "Input should be less than or equal to 1", "input": 2})
        'input should be less than or equal to 1, not 2'
    """
    message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
    if problem["type"] == "value_error":
        return message
    message, shown = f"{message[0].lower()}{message[1:]}", problem.get("input")
    for form, words in _FORMS:
        message = form.sub(words, message)
    if isinstance(shown, dict | list | tuple):
        return message
    known = _QUOTED.findall(problem["ctx"]["expected"]) if problem["type"] == "literal_error" else []
    return f"{message}, not {shown!r}{close_to(str(shown), known, listed=False)}{_as_number(shown)}"


def close_to(name: str, known: Sequence[str], *, listed: bool = True) -> str:
    """The end of a message about an unknown name: the nearest names, else (where ``listed``) all of them."""
    close = [one for one in known if one.lower() == name.lower()]
    begun = [one for one in known if len(name) > 2 and one.lower().startswith(name.lower())]
    close = close or sorted(begun, key=len)[:3]
    close = close or [one for one in known if one.lower().endswith(f".{name.lower()}")][:3]
    close = close or difflib.get_close_matches(name, known, n=3, cutoff=0.55)
    if close:
        ratios = [difflib.SequenceMatcher(None, one, name).ratio() for one in close]
        close = [one for one, ratio in zip(close, ratios, strict=True) if ratio > ratios[0] - 0.05]
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known)}" if listed and known else ""


def _as_number(shown: Any) -> str:
    """What to write for a text that means a number: ``20%``, or ``0,1``."""
    found = re.fullmatch(r"([0-9.]+) ?(%)|([0-9]+),([0-9]+)", shown) if isinstance(shown, str) else None
    if found is None or (found[2] and not re.fullmatch(r"\d+(\.\d+)?", found[1])):
        return ""
    return f": write {float(found[1]) / 100:g}" if found[2] else f": write {found[3]}.{found[4]}"
