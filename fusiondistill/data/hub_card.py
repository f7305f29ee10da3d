"""What a data set's card says of its files: the ``configs:`` at the head of a Hub repository's README.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fusiondistill.data.hub_names import place_of
from fusiondistill.safe_yaml import YAMLProblem, read

__all__ = ["CardConfig", "card_configs"]

MOST_BYTES = 2**22


class CardConfig(NamedTuple):
    """One configuration: its files by split, and whether the card makes it the default."""

    files: dict[str, list[str]]
    """Label of the split -> the files that are there, in order."""
    default: bool
    nothing_for: dict[str, str]
    """Label -> the first pattern, of splits none of whose files are there."""


def card_configs(card: Path, paths: Iterable[str]) -> dict[str, CardConfig]:
    """The configurations that a card lists, with those of the given files that belong to each.

    Args:
        card: the README.md.
        paths: of the Parquet files below its folder.

    Returns:
        name -> configuration; empty where there is no card, it lists none, or it cannot be read.
    """
    listed = _listed(card)
    known = sorted(paths)
    found: dict[str, CardConfig] = {}
    for config in listed:
        if not isinstance(config, Mapping) or not isinstance(name := config.get("config_name", "default"), str):
            continue
        folder = str(config.get("data_dir") or "").strip("/")
        matched, nothing = dict[str, list[str]](), dict[str, str]()
        if config.get("data_files") is None and folder:
            for path in (path for path in known if path.startswith(f"{folder}/")):
                matched.setdefault(place_of(path.removeprefix(f"{folder}/")).label, []).append(path)
        for label, patterns in _patterns(config.get("data_files"), folder).items():
            inside = [path for path in known if any(_matches(pattern, path) for pattern in patterns)]
            if inside:
                matched[label] = inside
            else:
                nothing[label] = next(iter(patterns), "")
        found[name] = CardConfig(matched, config.get("default") is True or name == "default", nothing)
    return found


def _listed(card: Path) -> list[Any]:
    try:
        with card.open("rb") as file:
            text = file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    head = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    # The rest of the head can list the names of thousands of classes, which take seconds to read.
    block = re.search(r"^configs:.*?(?=^[^\s#-]|\Z)", head[1], re.DOTALL | re.MULTILINE) if head else None
    if block is None:
        return []
    try:
        content, _ = read(block[0])
    except YAMLProblem:
        return []
    listed = content.get("configs") if isinstance(content, dict) else None
    return listed if isinstance(listed, list) else []


def _patterns(given: Any, folder: str) -> dict[str, list[str]]:
    """Label -> patterns below the root. The forms: text, a list of texts, a list of {split, path}, a mapping."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        given = [{"split": label, "path": paths} for label, paths in given.items()]
    found: dict[str, list[str]] = {}
    for one in given if isinstance(given, list) else ():
        label, paths = (str(one.get("split")), one.get("path")) if isinstance(one, Mapping) else ("train", one)
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str):
                plain = path.removeprefix("./").lstrip("/")
                found.setdefault(label, []).append(f"{folder}/{plain}" if folder else plain)
    return found


def _matches(pattern: str, path: str) -> bool:
    """Whether a path matches, with ``*``, ``?`` and ``[...]`` within a folder and ``**`` for any number of folders."""

    @cache
    def rest(patterns: tuple[str, ...], parts: tuple[str, ...]) -> bool:
        if not patterns or not parts:
            return not parts and all(one == "**" for one in patterns)
        if patterns[0] == "**":
            return rest(patterns[1:], parts) or rest(patterns, parts[1:])
        return fnmatchcase(parts[0], patterns[0]) and rest(patterns[1:], parts[1:])

    return rest(tuple(pattern.split("/")), tuple(path.split("/")))
