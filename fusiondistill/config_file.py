"""From a YAML file to a checked :class:`~fusiondistill.config.Config`: every mistake at once, each with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusiondistill import safe_yaml, sweep
from fusiondistill.config import SECTIONS, Config, Dimension
from fusiondistill.config_mistakes import ConfigError, Mistake, explained, line_of
from fusiondistill.config_rules import cross_check, layer_problems
from fusiondistill.loss import merged_loss
from fusiondistill.methods import METHODS
from fusiondistill.old_spellings import modern, say_modern
from fusiondistill.plugins import PluginError, load_plugins, read_plugins
from fusiondistill.resolution import resolve
from fusiondistill.safe_yaml import Location, YAMLProblem, mapping
from fusiondistill.shorthands import ambiguous, write_out

__all__ = ["ConfigError", "Mistake", "find", "load", "load_points", "parse", "parse_points"]


def find(name: str) -> Path:
    """The file of a config: a path, or the name of one of the shipped configs (``quickstart``).

    Raises:
        ConfigError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = _shipped()
    if path.stem in shipped and path.suffix in ("", ".yaml") and path.parent in (Path(), Path("configs")):
        return shipped[path.stem]
    if path.is_dir():
        message = "is a folder; give a YAML file"
    else:
        close = difflib.get_close_matches(path.stem, shipped, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        message = f"no such file; {hint}shipped configs: {', '.join(sorted(shipped))}"
    raise ConfigError(name, [Mistake("", message, 0)])


def _shipped() -> dict[str, Path]:
    """The configs that come with the project: beside the packages in a checkout, inside them when installed."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "fusiondistill_runner" / "configs", here / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read and check a config file; of a sweep this is the first point, under the sweep's name.

    Args:
        name: a path, or the name of a shipped config.
        overrides: ``KEY=VALUE`` with a dotted key and a YAML value, laid over the file.

    Raises:
        ConfigError: with every mistake of the file and of the overrides.
    """
    return load_points(name, overrides)[0]


def load_points(name: str, overrides: Iterable[str] = ()) -> tuple[Config, tuple[Config, ...]]:
    """As :func:`load`, with the configs of all points of its sweep; without a sweep that is the config itself."""
    path = find(name)
    try:
        text = safe_yaml.read_text(path)
    except YAMLProblem as error:
        raise ConfigError(str(path), [Mistake("", str(error), error.line)]) from error
    return parse_points(text, source=str(path), overrides=overrides)


def mistaken(name: str, overrides: Iterable[str], location: Location, message: str) -> ConfigError:
    """The error for a key of a config whose value turned out to be wrong when the data were looked at.

    Args:
        name, overrides: as for :func:`load`, which has found no mistake.
        location: of the key; of a sweep the one place where a point gives it counts, if there is one alone.
    """
    _, lines = _laid_over(name, overrides)
    if location not in lines:
        given = [one for one in lines if one[-len(location) :] == location]
        location = given[0] if len(given) == 1 else location
    return ConfigError(str(find(name)), [Mistake(".".join(map(str, location)), message, line_of(location, lines))])


def own_recipes(name: str, overrides: Iterable[str] = ()) -> dict[str, str]:
    """Method -> the recipe that it names itself, or what it is like; without a sweep's values.

    Args:
        name, overrides: as for :func:`load`, which has found no mistake.
    """
    given = resolve(_laid_over(name, overrides)[0]).given
    return {method: str(raw["recipe"]) for method, raw in given.items() if raw.get("recipe")}


def _laid_over(name: str, overrides: Iterable[str]) -> tuple[dict[str, Any], dict[Location, int | None]]:
    """The content of a config that has no mistake, its overrides laid over it, and the lines of its keys."""
    content, found = safe_yaml.read(safe_yaml.read_text(find(name)))
    lines: dict[Location, int | None] = {**found}
    write_out(content)
    for text in overrides:
        _override(content, lines, text)
    return content, lines


def parse(text: str, *, source: str = "config", overrides: Iterable[str] = ()) -> Config:
    """Check the text of a config; see :func:`load`."""
    return parse_points(text, source=source, overrides=overrides)[0]


def parse_points(
    text: str, *, source: str = "config", overrides: Iterable[str] = ()
) -> tuple[Config, tuple[Config, ...]]:
    """Check the text of a config; see :func:`load_points`."""
    try:
        content, found_lines = safe_yaml.read(text)
    except YAMLProblem as error:
        raise ConfigError(source, [Mistake("", str(error), error.line)]) from error
    lines: dict[Location, int | None] = {**found_lines}
    if not isinstance(content, dict):
        raise ConfigError(source, [Mistake("", "must be a mapping of keys to values", 1)])
    write_out(content)
    found = [m for m in [_override(content, lines, text) for text in overrides] if m]
    found += _load_plugins(content, lines)
    points, mistakes = _points(content, lines)
    found += mistakes
    checked = tuple(point for point in points if point)
    if found or len(checked) < len(points):
        raise ConfigError(source, found)
    whole = checked[0]
    if content.get("sweep") is not None:
        lists = {axis: tuple(sweep.values_of(values)) for axis, values in content["sweep"].items()}
        whole = whole.model_copy(update={"experiment": str(content.get("experiment")), "sweep": lists})
    return whole, checked


def _load_plugins(content: Mapping[str, Any], lines: Mapping[Location, int | None]) -> list[Mistake]:
    """Load the plugins, whose entries the rest of the config may name; returns their mistakes."""
    given, found = content.get("plugins"), []
    read: list[str] = []
    for i, path in enumerate(given if isinstance(given, list) else ()):
        if isinstance(path, str):
            try:
                load_plugins(read_plugins([*read, path])[-1:])
                read.append(path)
            except PluginError as error:
                found.append(Mistake(f"plugins.{i}", str(error), line_of(("plugins", i), lines)))
    return found


def _points(content: dict[str, Any], lines: Mapping[Location, int | None]) -> tuple[list[Config | None], list[Mistake]]:
    """The checked config of each point of the sweep, or of the one experiment, and all mistakes."""
    if content.get("sweep") is None:
        config, mistakes = _check(content, lines)
        return [config], mistakes
    known = sweep.Known((*SECTIONS, *METHODS), tuple(mapping(content.get("define"))))
    for axis in mapping(content["sweep"]):
        say_modern(str(axis))
    if wrong := list(sweep.problems(content, known)):
        at: list[tuple[Location, str]] = [(("sweep",) if a is None else ("sweep", a), text) for a, text in wrong]
        rest, mistakes = _check({key: value for key, value in content.items() if key != "sweep"}, lines)
        return [rest], mistakes + [Mistake(".".join(map(str, loc)), text, line_of(loc, lines)) for loc, text in at]
    points: list[Config | None] = []
    mistakes = []
    for point in sweep.crossed(content, known):
        there: dict[Location, int | None] = dict(lines)
        for location, axis in point.axes.items():
            for end in range(1, len(location)):
                there.setdefault(location[:end], line_of(("sweep", axis), lines))
            there[location] = line_of(("sweep", axis), lines)
        config, wrong_there = _check(point.content, there)
        points.append(config)
        mistakes += [m for m in wrong_there if m not in mistakes]
    return points, mistakes


def _check(content: dict[str, Any], lines: Mapping[Location, int | None]) -> tuple[Config | None, list[Mistake]]:
    """The config that a content describes (None if pydantic refuses it), and all mistakes."""
    content, lines, conflicts = modern(content, lines)
    write_out(content)  # also what a point of a sweep says
    twice = [Mistake(".".join(map(str, at)), text, line_of(at, lines)) for at, text in conflicts]
    config = None
    found: list[Mistake] = []
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        found += explained(error, content, lines)
    problems_there = [*ambiguous(content), *cross_check(content), *(layer_problems(config) if config else ())]
    ruled = [Mistake(".".join(map(str, loc)), text, line_of(loc, lines)) for loc, text in problems_there]
    said = tuple(f"{mistake.key}." for mistake in ruled)
    found = [m for m in found if m.message != "is missing" or not f"{m.key}.".startswith(said)]
    found = [m for m in found if m.key not in {mistake.key for mistake in ruled}]
    return config, found + ruled + twice


def _override(content: dict[str, Any], lines: dict[Location, int | None], text: str) -> Mistake | None:
    """Lay one ``KEY=VALUE`` over the content."""
    dotted, equals, value = text.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        return Mistake("", f"{text!r} is not KEY=VALUE", None)
    say_modern(dotted.strip())
    location = tuple(dotted.strip().split("."))
    if location[0] in mapping(content.get("define")) and location[0] not in METHODS:
        location = ("define", *location)
    elif location[:2] == ("search", "space") and len(location) > 2:
        # A dimension's key has dots of its own; one of its forms replaces the others.
        form = location[-1:] if location[-1] in Dimension.model_fields and len(location) > 3 else ()
        location = ("search", "space", ".".join(location[2 : len(location) - len(form)]))
        value = f"{{{form[0]}: {value}}}" if form else value
    try:
        read = safe_yaml.read(value)[0] if value.strip() else None
    except YAMLProblem as error:
        return Mistake(dotted, str(error), None)
    place = content
    for depth, part in enumerate(location[:-1]):
        if part == "loss":  # of a term either its weight is given, or a mapping
            place[part] = merged_loss(place.get(part), sweep.nested(location[depth + 1 :], read))
            break
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            return Mistake(".".join(location[: depth + 1]), "is a value, it has no keys below it", None)
    else:
        place[location[-1]] = read
    for known in [known for known in lines if known[: len(location)] == location]:
        del lines[known]
    lines[location] = None
    write_out(content)
    return None
