"""JSON that every reader takes: no NaN, no half characters, keys that are text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["plain", "text_of"]


def text_of(content: Any) -> str:
    """A content as JSON, indented; what :func:`plain` makes of it."""
    return json.dumps(plain(content), indent=1, allow_nan=False)


def plain(content: Any) -> Any:
    """A content as JSON has it: a number that is not finite is null, half a character a question mark.

    Mappings, lists, tuples, sets (sorted), numbers with ``item()`` (NumPy's), text, true, false and None stay what they
    are; anything else becomes text.

    Example:
        >>> plain({1: (float("nan"), 2.5), "x": None})
        {'1': [None, 2.5], 'x': None}
    """
    if isinstance(content, Mapping):
        return {str(plain(str(key))): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(one) for one in content]
    if isinstance(content, set | frozenset):
        return sorted(map(plain, content), key=str)
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    if content is None or isinstance(content, bool | int):
        return content
    if not isinstance(content, str) and hasattr(content, "item"):
        return plain(content.item())
    return str(content).encode(errors="replace").decode()
