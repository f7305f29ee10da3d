"""Finds the Parquet files of a data set's splits: below a folder, in a clone or in the Hub's download cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fusiondistill.counting import counted
from fusiondistill.data.errors import DataError
from fusiondistill.data.hub_card import CardConfig, card_configs
from fusiondistill.data.hub_names import check_shards, chosen_label, place_of, stands_in
from fusiondistill.data.source import Located, Root

__all__ = ["SUFFIXES", "HubFiles", "locate"]

SUFFIXES = (".parquet", ".parq", ".pq")
MOST_DEEP = 8
SHOWN = 12


class HubFiles(Located):
    """The files of the splits, by `<split>/<path>`, with all labels that splits have there."""

    labels: tuple[str, ...] = ()


class _Config(NamedTuple):
    """One configuration."""

    files: Mapping[str, list[str]]
    """Label -> paths."""
    folder: str
    """What all its paths begin with."""
    nothing_for: Mapping[str, str] = {}


def locate(
    root: Root,
    config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    cut: bool = False,
) -> HubFiles:
    """The Parquet files of the training, the test and the validation split.

    Args:
        root: a folder (the set's, one of its configurations', or the Hub's cache `datasets--OWNER--NAME`), a file, or
            several of either.
        config: the configuration, where there are several.
        train_split, test_split: what the set calls the splits; None: found by their names.
        cut: the test split is cut off the training images: a validation split does not stand in for it, and the one
            split of a set whose files name none is for training.

    Raises:
        DataError: nothing is there, a part is missing, or what is meant cannot be told.
    """
    given = [_snapshot(Path(item).expanduser()) for item in (root if isinstance(root, list) else [root or "."])]
    files = _all_files(given)
    where = str(given[0]) if len(given) == 1 else f"{given[0]} and {len(given) - 1} more"
    card = card_configs(given[0] / "README.md", files) if len(given) == 1 and given[0].is_dir() else {}
    notes: list[str] = []
    chosen = _from_card(card, config, where, notes) or _from_names(
        files, config, (train_split, test_split), where, notes
    )
    labels = _labels(chosen, (train_split, test_split), where, cut)
    found: dict[str, Path] = {}
    for split, label in labels.items():
        paths = chosen.files[label]
        check_shards(dict.fromkeys(paths), where)
        found |= {f"{split}/{path.removeprefix(chosen.folder)}": files[path] for path in paths}
        if not (split == "test" and test_split) and (note := stands_in(label, split)) is not None:
            notes.append(f"{where}: {note}")
        if any(place_of(path).partial for path in paths):
            notes.append(f"{where}: the Hub converted only the first part of {label} (partial-{label})")
    if not found:
        raise DataError(_no_split(where, files, chosen))
    left = [
        f"{label} ({counted(len(paths), 'file')})"
        for label, paths in chosen.files.items()
        if label not in labels.values()
    ]
    if left:
        notes.append(f"{where}: not used: {', '.join(left[:SHOWN])}")
    result = HubFiles(dict(sorted(found.items(), key=lambda item: (item[1].name, item[0]))), notes)
    result.labels = tuple(chosen.files)
    return result


def _labels(chosen: _Config, wanted: tuple[str | None, str | None], where: str, cut: bool) -> dict[str, str]:
    """Split -> what the set calls it, of the splits that are there."""
    found = {}
    if cut and len(chosen.files) == 1 and wanted == (None, None):
        only = next(iter(chosen.files))
        if chosen_label([only], "test", None) is None:
            return {"train": only}
    for split, name in zip(("train", "test"), wanted, strict=True):
        try:
            label = chosen_label([*chosen.files, *chosen.nothing_for], split, name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if label is not None and label not in chosen.files:
            raise DataError(f"{where}: README.md says that {chosen.nothing_for[label]} is its {label} split; fetch it.")
        if label is not None:
            found[split] = label
    if cut and not wanted[1] and "test" in found and stands_in(found["test"], "test") is not None:
        found["validation"] = found.pop("test")
    elif "test" in found:
        with suppress(DataError):  # several may be meant: none is used, which a note says
            other = chosen_label([label for label in chosen.files if label not in found.values()], "validation", None)
            found |= {"validation": other} if other else {}
    return found


def _snapshot(path: Path) -> Path:
    """Where a folder of the Hub's cache has its files; any other path as it is."""
    if not (path / "snapshots").is_dir():
        return path
    revisions = sorted(found.name for found in (path / "snapshots").iterdir() if found.is_dir())
    try:
        main = (path / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    # A clone of the set as it was uploaded may lie beside the Hub's conversion, which alone has Parquet files.
    filled = [name for name in revisions if next(_walk(path / "snapshots" / name), None) is not None]
    revisions = filled or revisions
    if main not in revisions and len(revisions) != 1:
        raise DataError(f"{path / 'snapshots'}: holds {len(revisions)} revisions. Give one of these folders as root.")
    return path / "snapshots" / (main if main in revisions else revisions[0])


def _all_files(given: list[Path]) -> dict[str, Path]:
    """Path below the root (of several roots: below the folder that they share) -> file."""
    for path in given:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder.")
    below = [(path, path if path.is_dir() else path.parent) for path in given]
    shared = Path(os.path.commonpath([folder.absolute() for _, folder in below]))
    files: dict[str, Path] = {}
    for path, folder in below:
        prefix = folder.absolute().relative_to(shared)
        for name in _walk(folder) if path.is_dir() else [path.name]:
            key = (prefix / name).as_posix()
            if files.get(key, folder / name) != folder / name:
                raise DataError(f"{folder / name}: another file of the data set has the same name.")
            files[key] = folder / name
    if not files:
        raise DataError(_nothing(given))
    return files


def _walk(base: Path) -> Iterator[str]:
    """The Parquet files below a folder; hidden folders and those that open with two underscores are left out."""
    for folder, inside, names in os.walk(base, followlinks=True):
        parts = Path(folder).relative_to(base).parts
        above = {os.path.realpath(base.joinpath(*parts[:depth])) for depth in range(len(parts))}
        if os.path.realpath(folder) in above:
            inside[:] = []  # a link that leads back
            continue
        keep = [name for name in inside if not name.startswith((".", "__"))]
        inside[:] = sorted(keep) if len(parts) < MOST_DEEP else []
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(*parts, name).as_posix()


def _nothing(given: list[Path]) -> str:
    where = ", ".join(map(str, given[:3]))
    arrow = any(path.is_dir() and next(path.rglob("*.arrow"), None) for path in given)
    hint = " It holds .arrow files, as save_to_disk writes them: write the splits with to_parquet." if arrow else ""
    hint = hint or " Expected are train-*.parquet and test-*.parquet, or folders as the Hub has them."
    return f"{where}: holds no .parquet file.{hint}"


def _from_card(card: Mapping[str, CardConfig], config: str | None, where: str, notes: list[str]) -> _Config | None:
    """The configuration that the card and the user name; None where the card names none of the files."""
    there = {name: one for name, one in card.items() if one.files}
    if not there:
        return None
    if config is not None:
        if config not in card:
            raise DataError(f"{where}: README.md has no configuration {config!r}; it has {', '.join(card)}.")
        name = config
    else:
        default = [name for name, one in there.items() if one.default]
        if len(there) > 1 and len(default) != 1:
            raise DataError(_ask(where, {name: one.files for name, one in there.items()}))
        name = default[0] if len(there) > 1 else next(iter(there))
        if len(there) > 1:
            others = ", ".join(other for other in list(there)[:SHOWN] if other != name)
            notes.append(f"{where}: README.md makes {name} the default; data.config takes another ({others})")
    paths = [path for files in card[name].files.values() for path in files]
    return _Config(card[name].files, _folder_of(paths), card[name].nothing_for)


def _folder_of(paths: list[str]) -> str:
    """What all paths begin with, whole folders alone, but not those that name a split."""
    shared = {place_of(path).config for path in paths}
    only = next(iter(shared)) if len(shared) == 1 else ""
    return f"{only}/" if only else ""


def _from_names(
    files: Mapping[str, Path],
    config: str | None,
    wanted: tuple[str | None, str | None],
    where: str,
    notes: list[str],
) -> _Config:
    """The configuration that the paths name, and the user where there are several."""
    configs: dict[str, dict[str, list[str]]] = {}
    for path in sorted(files):
        place = place_of(path)
        configs.setdefault(place.config or ".", {}).setdefault(place.label, []).append(path)
    if config is not None:
        if config == "default":  # what the Hub calls the one that push_to_hub puts into data/
            config = next((name for name in ("default", "data", ".") if name in configs), config)
        if config not in configs:
            raise DataError(f"{where}: there is no configuration {config!r}. There are {', '.join(sorted(configs))}.")
        configs = {config: configs[config]}
    usable = {name: labels for name, labels in configs.items() if _roles(labels, wanted)} or configs
    if len(usable) > 1:
        roles = [role for labels in usable.values() for role in _roles(labels, wanted)]
        if len(set(roles)) < len(roles):
            raise DataError(_ask(where, usable))
        merged = {label: paths for labels in usable.values() for label, paths in labels.items()}
        return _Config(merged, "")  # each has one of the splits: they are parts of one set
    name, labels = next(iter(usable.items()))
    notes += [
        f"{where}: not used, since no split is named: {', '.join(paths[:SHOWN])}"
        for other in configs.keys() - usable.keys()
        for paths in configs[other].values()
    ]
    return _Config(labels, "" if name == "." else f"{name}/")


def _roles(labels: Mapping[str, object], wanted: tuple[str | None, str | None]) -> list[str]:
    """The splits, "train" or "test", that a configuration may have."""
    found = []
    for split, label in zip(("train", "test"), wanted, strict=True):
        try:
            there = chosen_label(labels, split, None) is not None if label is None else label.lower() in labels
        except DataError:  # several labels may be meant: told for the configuration that is chosen
            there = True
        found += [split] * there
    return found


def _ask(where: str, configs: Mapping[str, Mapping[str, object]]) -> str:
    shown = "; ".join(f"{name} ({', '.join(labels)})" for name, labels in list(configs.items())[:SHOWN])
    more = f"; and {len(configs) - SHOWN} more" if len(configs) > SHOWN else ""
    return f"{where}: holds several configurations: {shown}{more}. Say which, like data.config: {next(iter(configs))}."


def _no_split(where: str, files: Mapping[str, Path], chosen: _Config) -> str:
    names = ", ".join(list(files)[:SHOWN])
    line = f" or say which it is, like data.train_split: {next(iter(chosen.files))}" if chosen.files else ""
    return (
        f"{where}: no file name or folder names a train or test split ({names}). Give the folder above as root, if it "
        f"does, rename the files to train-*.parquet and test-*.parquet,{line}. Are all of them for training, write "
        "data.test: 0.2, which cuts a test split off."
    )
