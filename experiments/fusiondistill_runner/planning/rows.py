"""A plan as a value: stages, the rows of the table that they give, and what each row is."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from fusiondistill import NAME, __version__
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.config import Config
from fusiondistill.degradation_config import DegradationConfig, spelled
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill_runner.planning.descriptions import Description
from fusiondistill_runner.planning.specs import JUDGING, CheckpointSpec
from fusiondistill_runner.planning.stage import FORMAT, Stage, ancestors

__all__ = ["CORRUPTED", "Kind", "OtherFormat", "Plan", "Row", "Shown", "Validated", "check_plan", "union"]

Kind = Literal["trained", "unseen", "corruption"]
"""Degradations with an expert, degradations without one, and published sets of corrupted images."""
CORRUPTED = "c-"
"""Opens the name of a published corruption, which may be that of a registered degradation."""


@dataclass(frozen=True)
class Row:
    """A stretch of the results table: one method and seed on some levels of a degradation, counted by one stage."""

    method: str
    seed: int
    degradation: str
    stage: Stage
    kind: Kind = "trained"


@dataclass(frozen=True)
class Validated:
    """One network of a row: the stage that made it, and the stage that judges it on the validation split."""

    method: str
    seed: int
    network: Stage
    stage: Stage

    @property
    def foreign(self) -> bool:
        """Whether the network rests on a checkpoint from elsewhere, which may have trained on the validation images."""
        return any(isinstance(one.spec, CheckpointSpec) for one in ancestors(self.network))

    @property
    def same(self) -> str:
        """Equal for networks that are judged on the same images in the same way, but for the split's seed."""
        spec = self.stage.spec.model_dump(mode="json")
        spec["data"]["holdout_seed"] = 0
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shown:
    """A column of the table: a degradation as its config gives it.

    Attributes:
        name: of the registry's entry.
        levels: rising; those that are not evaluated are interpolated.
        means: what a level is, with its unit; "" where the entry does not say.
        said: the levels in words where the config gives some of the entry's, else "".
    """

    name: str
    levels: Sequence[int]
    means: str = ""
    said: str = ""

    @classmethod
    def of(cls, given: DegradationConfig, levels: Sequence[int]) -> Shown:
        """What a config's degradation with these levels is."""
        entry = DEGRADATIONS.get(given.name)
        said = "" if given.levels is None else spelled(given.levels)
        return cls(given.name, levels, entry.means if entry else "", said)

    def content(self) -> dict[str, Any]:
        """JSON-able; ``listed`` has all levels where some between the first and the last are left out."""
        listed = list(self.levels) if len(self.levels) <= self.levels[-1] - self.levels[0] else None
        return {"name": self.name, "means": self.means, "said": self.said, "listed": listed}


@dataclass(frozen=True)
class Plan:
    """All stages of an experiment, inputs before what uses them, and the rows of its table."""

    config: Config
    stages: tuple[Stage, ...]
    rows: tuple[Row, ...]
    degradations: Mapping[str, Shown] = field(default_factory=dict)
    """Id of each degradation of its rows -> what it is; published corruptions are not among them."""
    descriptions: tuple[Description, ...] = ()
    """What each row is, in the order of the table."""
    size: tuple[int, int] | None = None
    """(height, width) of the images in pixels, where it is known: a level means something at a size."""
    validated: tuple[Validated, ...] = ()
    """The networks among which the best single one is chosen; none where the images leave no validation split."""
    validation: bool = False
    """Whether epochs and weights are picked on the set's own validation split."""

    @cached_property
    def labels(self) -> dict[str, str]:
        """Digest -> what a person calls the stage: its name, its seed and a part of its digest where that is needed."""
        seeds = {stage.seed for stage in self.stages}
        alike = Counter((stage.name, stage.seed) for stage in self.stages)
        return {
            stage.digest: stage.name
            + (f"[{stage.seed}]" if len(seeds) > 1 else "")
            + (f" ({stage.digest[:6]})" if alike[stage.name, stage.seed] > 1 and stage.kind not in JUDGING else "")
            for stage in self.stages
        }

    def describe(self) -> dict[str, Any]:
        """What a reader of the store needs to find the results: JSON-able."""
        return {
            "format": FORMAT,
            "experiment": self.config.experiment,
            "config": self.config.model_dump(mode="json"),
            "content": self.config.content(),
            "stages": [{"name": s.name, "kind": s.kind, "seed": s.seed, "directory": s.directory} for s in self.stages],
            "rows": [
                {
                    "method": r.method,
                    "seed": r.seed,
                    "degradation": r.degradation,
                    "kind": r.kind,
                    "directory": r.stage.directory,
                }
                for r in self.rows
            ],
            "validated": [
                {
                    "method": v.method,
                    "seed": v.seed,
                    "network": v.network.directory,
                    "foreign": v.foreign,
                    "same": v.same,
                    "directory": v.stage.directory,
                }
                for v in self.validated
            ],
            "levels": {name: [of.levels[0], of.levels[-1]] for name, of in self.degradations.items()},
            "degradations": {name: of.content() for name, of in self.degradations.items()},
            "size": list(self.size) if self.size else None,
            "validation": self.validation,
            "methods": [one.content() for one in self.descriptions],
        }


_STAGE = {"name": str, "kind": str, "seed": int, "directory": str}
_METHOD = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in fields(Description)}
_LATER = {"part": 0, "transductive": False}
_ROW = {"method": str, "seed": int, "degradation": str, "directory": str}
_VALIDATED = {"method": str, "seed": int, "network": str, "same": str, "foreign": bool, "directory": str}


class OtherFormat(CheckpointError):
    """A plan that a version with other digests noted: only that version can use the results beside it."""

    def __init__(self, content: Mapping[str, Any], path: str) -> None:
        made = re.search(rf"\b{NAME} (\d[\w.+]{{0,30}})", str(content.get("versions", "")))
        super().__init__(
            f"{path} was noted by {NAME} {made[1] if made else 'of another version'}, whose stages have other digests "
            f"than those of {__version__}: nothing here is read or changed. Look at this store with the version that "
            "made it, and run configs into another one (--store). Its networks can be used: give their directories to "
            f"`{NAME} evaluate`, or to a config as checkpoint: DIRECTORY"
        )


def check_plan(content: Mapping[str, Any], experiment: str, path: str) -> None:
    """Check that a file's content has the form of :meth:`Plan.describe`, and that its directories lie in the store.

    Raises:
        OtherFormat: another version of the project noted it.
        CheckpointError: the content has another form.
    """
    if content.get("format") != FORMAT:
        raise OtherFormat(content, path)
    if content.get("experiment") != experiment:
        raise CheckpointError(f"{path} is damaged: it is the plan of {content.get('experiment')!r}")
    content = {"validated": [], **content}  # a plan noted before there were such stages
    parts = {"stages": _STAGE, "rows": _ROW, "methods": _METHOD, "validated": _VALIDATED}
    for name, kinds in parts.items():
        entries: list[Any] = content[name] if isinstance(content.get(name), list) else [None]
        for given in entries:
            # A plan that was noted before there were such rows lacks these.
            entry = {**_LATER, **given} if isinstance(given, dict) and name == "methods" else given
            sound = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
            if not sound or any(_leads_out(entry.get(key, "")) for key in ("directory", "network")):
                raise CheckpointError(f"{path} is damaged: {str(entry)[:100]} is not among the {name} of a plan")
    about = content.get("degradations", {})
    if not isinstance(about, dict) or not all(_sound_column(one) for one in about.values()):
        raise CheckpointError(f"{path} is damaged: {str(about)[:100]} are not the degradations of a plan")
    config = content.get("config")
    given = [config.get(name) for name in ("model", "data", "evaluation")] if isinstance(config, dict) else [None]
    if not all(isinstance(part, dict) for part in given) or not isinstance(config, dict) or "protocol" not in config:
        raise CheckpointError(f"{path} is damaged: it holds no config")


def _leads_out(name: str) -> bool:
    """Whether a directory's name from an untrusted file is more than a name."""
    return "/" in name or name in (".", "..") or not name.isprintable()


def _sound_column(one: Any) -> bool:
    """Whether something is what :meth:`Shown.content` gave."""
    if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in ("name", "means", "said")):
        return False
    listed = one.get("listed")
    return listed is None or (isinstance(listed, list) and bool(listed) and all(type(n) is int for n in listed))


def union(config: Config, plans: Sequence[Plan]) -> Plan:
    """One plan with the stages of several plans, each once, and with all their rows."""
    stages = {stage.digest: stage for plan in plans for stage in plan.stages}
    rows = tuple(row for plan in plans for row in plan.rows)
    described = {one.id: one for plan in plans for one in plan.descriptions}
    validated = tuple(one for plan in plans for one in plan.validated)
    return Plan(config, tuple(stages.values()), rows, descriptions=tuple(described.values()), validated=validated)
