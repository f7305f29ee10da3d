"""What ``fusiondistill data check`` says: lines of 80 columns, or JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusiondistill import config_file, safe_yaml
from fusiondistill.catalogue import WIDTH, wrapped
from fusiondistill.config import DataConfig
from fusiondistill.counting import counted
from fusiondistill.data.guessing import keys_for
from fusiondistill.data.inspection import Copy, Facts, SplitFacts, inspect
from fusiondistill.data.resizing import listed
from fusiondistill.data.tables import tables_in
from fusiondistill.sources import SOURCES

__all__ = ["check_data", "content", "lines", "yaml_text"]

SHOWN = 5
MOST_CLASSES = 30
_CONFIGS = (".yaml", ".yml")


def check_data(path: str, overrides: tuple[str, ...]) -> Facts:
    """Look at the data set at a path, or that of a config.

    Args:
        path: a folder, a table, a Parquet file; a config, by its file or shipped name; or a data set by its name,
            which is fetched as a run would.
        overrides: ``KEY=VALUE``, laid over the config, like ``data.bits=12``.

    Raises:
        ConfigError, DataError: there is nothing to look at, or it cannot be told how it is laid out.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() in _CONFIGS or (not place.exists() and _is_shipped(path)):
        data = config_file.load(path, overrides).data
    elif not place.exists() and path in SOURCES and not SOURCES[path].needs_root:
        named = [f"data.name={path}", *overrides]
        data = config_file.parse("experiment: check\n", source=path, overrides=named).data
    else:
        keys = [f"data.{key}={json.dumps(value)}" for key, value in keys_for(place).items()]
        data = config_file.parse("experiment: check\n", source=path, overrides=[*keys, *overrides]).data
    facts = inspect(data.name, data.place, _keys(data), data.loading)
    return replace(facts, notes=(*facts.notes, *_beside(place, data)))


def _beside(place: Path, data: DataConfig) -> list[str]:
    """A note on tables that lie in the folder and are not read."""
    used = {Path(data.labels).absolute()} if data.labels else set()
    others = [] if data.name == "parquet" or not place.is_dir() else tables_in(place)
    names = [path.name for path in others if path.absolute() not in used]
    told = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
    return [f"tables that are not read: {told}; one is by `data check {place / names[0]}`"] if names else []


def _is_shipped(name: str) -> bool:
    try:
        config_file.find(name)
    except config_file.ConfigError:
        return False
    return True


def _keys(data: DataConfig) -> dict[str, Any]:
    """The keys of ``data:`` that are not at their default."""
    entry = data.entry()
    fields = {**DataConfig.model_fields, **(entry.parameters.model_fields if entry else {})}
    dumped = data.model_dump(mode="json")
    return {k: v for k, v in dumped.items() if k == "name" or (k in fields and v != fields[k].default)}


def content(facts: Facts) -> dict[str, Any]:
    """The facts as JSON has them; sizes are ``WIDTHxHEIGHT``."""
    return {
        "splits": {name: _split(one) for name, one in facts.splits.items()},
        "copies": [{"where": c.where, "splits": c.splits, "classes": c.classes} for c in facts.copies],
        "notes": list(facts.notes),
        "wrong": facts.wrong,
        "data": facts.keys,
    }


def _split(one: SplitFacts) -> dict[str, Any]:
    sizes = {f"{width}x{height}": count for (height, width), count in one.sizes.most_common()}
    rest = {"modes": dict(one.modes), "broken": one.broken, "problems": one.problems}
    return {"images": one.images, "classes": one.classes, "sizes": sizes, **rest}


def lines(facts: Facts) -> Iterator[str]:
    """The facts for people, at most 80 columns wide where names are short; what to write can be pasted as it stands."""
    counts = ", ".join(f"{name} {one.images:,}" for name, one in facts.splits.items())
    classes = list(facts.splits["train"].classes)
    images = counted(sum(one.images for one in facts.splits.values()), "image")
    yield f"{images} ({counts}), {counted(len(classes), 'class')}"
    yield from _classes(facts, classes)
    yield from _about("sizes", _sizes(facts))
    modes = sum((one.modes for one in facts.splits.values()), type(facts.sizes)())
    if modes:
        yield from _about("modes", ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common()))
    root = f"{Path(facts.keys.get('images') or facts.keys.get('root') or '.').expanduser().absolute()}/"
    broken = [text.replace(root, "") for one in facts.splits.values() for text in one.broken]
    yield from _about("broken", _some(f"{len(broken):,}", _by_reason(broken)))
    yield from _copies(facts.copies, root)
    yield from _about("balance", _balance(facts))
    for what, texts in (("note", facts.notes), ("wrong", facts.wrong)):
        for text in texts:
            yield from _about(what, text.replace(root, ""))
    if "size" in facts.keys:
        yield from _about("size", "is a suggestion: larger images show more and take longer; see data.fit, too")
    said = ", ".join(f"{key}: {yaml_text(value)}".replace(" ", "\0") for key, value in facts.keys.items())
    yield "write into the config:"
    for line in wrapped(f"data:\0{{{said}}}", WIDTH):
        yield line.replace("\0", " ")


def yaml_text(value: Any) -> str:
    """A value as a flow mapping of YAML has it: text that could mean something else in quotes."""
    marked = isinstance(value, str) and set(value) & set(",:{}[]#&*!|>'\"%@`\n")
    with contextlib.suppress(safe_yaml.YAMLProblem):
        if isinstance(value, str) and not marked and safe_yaml.read(f"key: {value}")[0] == {"key": value}:
            return value
    return json.dumps(value)


def _classes(facts: Facts, classes: list[str]) -> Iterator[str]:
    names = list(facts.splits)
    wide = min(40, max([5, *map(len, classes)]))
    yield f"  {'class':{wide}}" + "".join(f"{name:>12}" for name in names)
    by_size = sorted(classes, key=lambda name: -facts.splits["train"].classes[name])
    half = MOST_CLASSES // 2
    shown = by_size if len(classes) <= MOST_CLASSES else [*by_size[:half], "", *by_size[-half:]]
    for name in shown:
        counts = "".join(f"{facts.splits[split].classes.get(name, 0):>12,}" for split in names)
        yield f"  {name[:wide]:{wide}}{counts}" if name else f"  ... {len(classes) - 2 * half:,} more"


def _sizes(facts: Facts) -> str:
    sizes = facts.sizes
    if len(sizes) == 1:
        return f"all {listed(sizes)}"
    sides = [side for size in sizes for side in size]
    named = f": {listed(sizes)}" if 20 * max(sizes.values()) > sizes.total() else ""
    return f"{len(sizes):,} different ones, sides of {min(sides):,} to {max(sides):,} pixels{named}"


def _copies(copies: list[Copy], root: str) -> Iterator[str]:
    """How many images are there more than once; examples, those in two splits and with two labels apart."""
    extra = sum(len(copy.where) - 1 for copy in copies)
    yield from _about(
        "copies", counted(extra, "image is a copy of another", "images are copies of others") + ", pixel by pixel"
    )
    groups = dict[str, list[Copy]]()
    for copy in copies:
        apart = [f"{len(set(several)) > 1:d}" for several in (copy.splits, copy.classes)]
        groups.setdefault(_KINDS["".join(apart)], []).append(copy)
    for kind, found in sorted(groups.items()):
        yield from _about("", _some(f"{len(found):,} {kind}", [_pair(copy).replace(root, "") for copy in found]))


_KINDS = {
    "00": "in one class",
    "01": "with two labels",
    "10": "in two splits",
    "11": "in two splits and with two labels",
}


def _pair(copy: Copy) -> str:
    """Two places of a copy, of other splits or classes where there are such."""
    own = (copy.splits[0], copy.classes[0])
    other = next((i for i, seen in enumerate(zip(copy.splits, copy.classes, strict=True)) if seen != own), 1)
    return f"{copy.where[0]} = {copy.where[other]}"


def _balance(facts: Facts) -> str:
    counts = facts.splits["train"].classes
    most, fewest = max(counts, key=lambda name: counts[name]), min(counts, key=lambda name: counts[name])
    ratio = f", {counts[most] / counts[fewest]:.1f} to 1" if counts[fewest] else ""
    judged = facts.splits.get("test", facts.splits["train"])
    share = 100 * judged.classes.get(most, 0) / max(1, judged.images)
    if counts[most] == counts[fewest]:
        return f"each class has {counted(counts[most], 'training image')}"
    return (
        f"largest class {most} ({counts[most]:,}), smallest {fewest} ({counts[fewest]:,}){ratio}; always saying "
        f"{most} is right in {share:.1f} % of the {'test ' if judged is not facts.splits['train'] else ''}images"
    )


def _by_reason(broken: list[str]) -> Iterator[str]:
    """Broken files with what is wrong with them, each reason once."""
    groups = dict[str, list[str]]()
    for where, _, reason in (text.partition(": ") for text in broken):
        groups.setdefault(reason, []).append(where)
    for reason, files in groups.items():
        more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
        yield f"{', '.join(files[:SHOWN])}{more}: {reason}"


def _some(what: str, examples: Any) -> str:
    listed_ = list(examples)
    more = f"; and {len(listed_) - SHOWN:,} more" if len(listed_) > SHOWN else ""
    return f"{what}: {'; '.join(listed_[:SHOWN])}{more}" if listed_ else what


def _about(what: str, text: str) -> Iterator[str]:
    yield from wrapped(f"{what:8} {text}", WIDTH, " " * 9)
