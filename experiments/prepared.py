"""From a config to a checked plan beside its store: all that is known before anything starts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.plan import build, build_evaluation
from experiments.rows import CORRUPTED, Plan, union
from experiments.stage import Stage, ancestors
from experiments.store import Store
from fusiondistill import config_file
from fusiondistill.config import Config, ModelConfig

__all__ = ["Prepared", "check_data", "prepare", "prepare_evaluation", "read_plugins"]


@dataclass(frozen=True)
class Prepared:
    """A checked config with its plan, and what its store already holds."""

    config: Config
    plan: Plan
    """All stages; of a sweep those of all its points, each once."""
    points: tuple[Plan, ...]
    """The experiments: one for each point of a sweep, else the plan itself."""
    store: Store
    context: Any
    stored: set[str] = field(default_factory=set)
    damage: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Stage]:
        """Stages that need work."""
        return [stage for stage in self.plan.stages if stage.digest not in self.stored]

    def looked_up(self) -> Prepared:
        """The same with a fresh look at what the store holds."""
        stored, damage = self.store.stored(self.plan.stages)
        return replace(self, stored=stored, damage=damage)

    def narrowed(self, stages: Sequence[Stage]) -> Prepared:
        """Only these stages and what they rest on; no rows."""
        kept = {needed.digest: needed for one in stages for needed in ancestors(one)}
        return replace(self, plan=replace(self.plan, stages=tuple(kept.values()), rows=()))


def prepare(name: str, overrides: Sequence[str] = (), store: str | None = None) -> Prepared:
    """Read a config, find its data and plan it; starts nothing, and does not look into the store (``looked_up``).

    Raises:
        ConfigError, DataError, CheckpointError, FileNotFoundError: the user's input is wrong.
    """
    config, points = config_file.load_points(name, overrides)
    outside = _Outside(config.plugins)
    plans = tuple(build(point, *outside.of(point), **outside.facts(point)) for point in points)
    return outside.prepared(config, plans, store)


def prepare_evaluation(
    checkpoints: Sequence[str], overrides: Sequence[str], store: str | None, *, data: str
) -> Prepared:
    """Plan the evaluation of checkpoints on a data set; a row of its table each.

    Args:
        checkpoints: as ``load_checkpoint`` takes them; each must carry its card, which names its network.
        overrides: as for a config, whose ``data`` and ``evaluation`` and ``degradations`` count.
        data: name of the data set.

    Raises:
        as :func:`prepare`.
    """
    from fusiondistill.checkpoints import CheckpointError, load_checkpoint

    text = f"experiment: evaluate-{data}\n" if re.fullmatch(r"\w+", data) else "experiment: evaluate\n"
    config = config_file.parse(text, source="evaluate", overrides=[f"data.name={data}", *overrides])
    models: dict[str, tuple[str, ModelConfig, Mapping[str, Any]]] = {}
    for path in checkpoints:
        _, card = load_checkpoint(path)
        if not card:
            raise CheckpointError(
                f"{path} carries no card: it does not say which network it belongs to; take it into a run as "
                "base: {checkpoint: FILE}, whose config names the network"
            )
        model = ModelConfig(name=card["model"], feature_layer=card.get("feature_layer"))
        models[_row_name(path, models)] = (path, model, card)
    outside = _Outside(config.plugins)
    plan = build_evaluation(config, *outside.of(config), models, **outside.facts(config))
    return outside.prepared(config, (plan,), store)


def _row_name(path: str, taken: Mapping[str, Any]) -> str:
    """What a checkpoint is called in the table: the end of its path, with a number where that is not unique."""
    place = Path(path.partition("?")[0] if "://" in path else path)
    stem = place.parent.name if place.name == "manifest.json" else place.name
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", re.sub(r"\.(safetensors|pt|pth)$", "", stem)).strip("-.") or "checkpoint"
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


class _Outside:
    """What plans need to know of the world: data sets, plugins, corruption sets; each looked at once."""

    def __init__(self, plugins: Sequence[str]) -> None:
        self.plugins = read_plugins(plugins)
        self.digests = tuple(hashlib.sha256(source.encode()).hexdigest() for _, source in self.plugins)
        self.data: dict[tuple[str, str | None], tuple[str, int, int]] = {}
        self.corruptions: dict[str, dict[str, str]] = {}

    def of(self, config: Config) -> tuple[str, Any]:
        """Fingerprint of the data, and the levels of each degradation."""
        from fusiondistill.degradations import DEGRADATIONS

        unknown = [d for d in (*config.degradations, *config.evaluation.unseen) if d not in DEGRADATIONS]
        if unknown:
            known = ", ".join(DEGRADATIONS)
            raise ValueError(f"no degradation {unknown[0]!r}, not in the plugins either; known: {known}")
        return self._data(config)[0], lambda name: DEGRADATIONS[name].levels

    def _data(self, config: Config) -> tuple[str, int, int]:
        from fusiondistill.data import fingerprint, load_images

        key = (config.data.name, config.data.root)
        if key not in self.data:
            test = load_images(config.data.name, "test", root=config.data.root)
            self.data[key] = (fingerprint(config.data.name, root=config.data.root), len(test), len(test.classes))
        return self.data[key]

    def facts(self, config: Config) -> dict[str, Any]:
        """The rest of what :func:`experiments.plan.build` takes."""
        _, images, classes = self._data(config)
        folder = config.evaluation.corruptions
        found = self._corruptions(folder, classes) if folder else {}
        return {"test_images": images, "plugins": self.digests, "corruptions": found}

    def _corruptions(self, folder: str, classes: int) -> dict[str, str]:
        from fusiondistill.data.corruptions import check_corruptions, corruption_digest, corruption_names

        if folder not in self.corruptions:
            check_corruptions(folder, classes)
            names = corruption_names(folder)
            self.corruptions[folder] = {f"{CORRUPTED}{n}": corruption_digest(folder, n) for n in names}
        return self.corruptions[folder]

    def prepared(self, config: Config, plans: tuple[Plan, ...], store: str | None) -> Prepared:
        """Everything together, beside the store."""
        from experiments.materials import Context

        place = Store(store or f"runs/{config.experiment}")
        where = place.location if "://" in place.location else _absolute(place.location)
        roots = tuple((found[0], _absolute(root)) for (_, root), found in self.data.items() if root)
        sets = tuple((d, _absolute(folder)) for folder, found in self.corruptions.items() for d in found.values())
        context = Context(where, roots, sets, config.evaluation.batch_size, self.plugins)
        return Prepared(config, union(config, plans), plans, place, context)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def read_plugins(paths: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Run the users' files that register degradations; returns (file name, source) of each.

    Raises:
        ValueError: a file is missing or raises.
    """
    if not paths:
        return ()
    from experiments.materials import load_plugins

    try:
        plugins = tuple((Path(path).name, Path(path).read_text()) for path in paths)
        load_plugins(plugins)
    except Exception as error:  # whatever the user's file does
        raise ValueError(f"plugin {', '.join(paths)}: {type(error).__name__}: {error}") from error
    return plugins


def check_data(prepared: Prepared) -> None:
    """Decode the images (once), so that a broken file is reported before any worker starts."""
    from fusiondistill.data import load_images

    for name, root in dict.fromkeys((plan.config.data.name, plan.config.data.root) for plan in prepared.points):
        for split in ("train", "test"):
            load_images(name, split, root)
