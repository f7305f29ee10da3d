"""The stored golden results, and what is wrong where results differ from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from golden.cases import Found

__all__ = ["FILE", "WRITE", "problem", "read", "text", "written"]

FILE = Path(__file__).parent / "golden.json"
WRITE = "`make golden` (python tests/golden/write.py)"
CLOSE = 1e-4
"""Between two numbers that processors and releases of torch compute in other orders: of the larger of it and 1."""

Stored = Mapping[str, Mapping[str, Any]]


def read(path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Key -> version, exact and close results."""
    return json.loads(path.read_text()) if path.exists() else {}


def changed(stored: Mapping[str, Any], found: Found) -> list[str]:
    """The cases, of those in both, whose results differ."""
    exact = [case for case, digest in found.exact.items() if stored["exact"].get(case, digest) != digest]
    pairs = {case: (stored["close"].get(case, values), values) for case, values in found.close.items()}
    return [*exact, *(case for case, (old, new) in pairs.items() if not _near(old, new))]


def _near(old: list[float], new: list[float]) -> bool:
    return len(old) == len(new) and all(abs(a - b) <= CLOSE * max(1.0, abs(a)) for a, b in zip(old, new, strict=True))


def problem(key: str, stored: Mapping[str, Any] | None, found: Found) -> str | None:
    """What is wrong with a key, and what to do; None: nothing."""
    if stored is None:
        return f"{key} has no golden result: run {WRITE}"
    if stored["version"] != found.version:
        return f"{key} has a new version ({stored['version']} -> {found.version}): run {WRITE}"
    if differ := changed(stored, found):
        return (
            f"{key} gives another result than before ({'; '.join(differ)}), and its version is the same: raise the "
            f"{found.raised}, so that stored results are not taken for new ones, then run {WRITE}"
        )
    if [*stored["exact"], *stored["close"]] != [*found.exact, *found.close]:
        return f"{key} has other cases than are stored: run {WRITE}"
    return None


def refused(key: str, stored: Mapping[str, Any] | None, found: Found) -> bool:
    """Whether a result may not be overwritten: it changed, and its version did not."""
    return stored is not None and stored["version"] == found.version and bool(changed(stored, found))


def written(stored: Stored, found: Mapping[str, Found]) -> tuple[dict[str, Any], list[str]]:
    """The content of the file anew, and the problems of what may not be overwritten, which stays as it is.

    Results that are as they were stay to the letter, so that another processor changes no line.
    """
    content: dict[str, Any] = {}
    problems = []
    for key, result in sorted(found.items()):
        before = stored.get(key)
        wrong = problem(key, before, result)
        if wrong is None or refused(key, before, result):
            content[key] = before
            problems += [] if wrong is None else [wrong]
        else:
            content[key] = {"version": result.version, "exact": dict(result.exact), "close": dict(result.close)}
    return content, problems


def text(content: Mapping[str, Any]) -> str:
    """The file: a line for each case."""
    keys = []
    for key, result in content.items():
        parts = [f'  "version": {json.dumps(result["version"])}']
        for kind in ("exact", "close"):
            lines = ",\n".join(f"   {json.dumps(case)}: {json.dumps(value)}" for case, value in result[kind].items())
            parts.append(f'  "{kind}": {{' + (f"\n{lines}\n  }}" if lines else "}"))
        keys.append(f" {json.dumps(key)}: {{\n" + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(keys) + "\n}\n"
