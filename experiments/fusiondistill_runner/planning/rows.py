"""A plan as a value: stages, and the rows of the table that they give; and how levels are cut into pieces."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.config import Config
from fusiondistill_runner.planning.stage import Stage

__all__ = ["CORRUPTED", "SEVERITIES", "Kind", "Plan", "Row", "check_plan", "cut", "every", "spread", "union"]

Kind = Literal["trained", "unseen", "corruption"]
"""What experts were trained for, what nobody was, and published sets of corrupted images."""
SEVERITIES = (1, 2, 3, 4, 5)
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
class Plan:
    """All stages of an experiment, inputs before what uses them, and the rows of its table."""

    config: Config
    stages: tuple[Stage, ...]
    rows: tuple[Row, ...]
    levels: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Degradation -> its first and last level, evaluated or not."""

    @cached_property
    def labels(self) -> dict[str, str]:
        """Digest -> what a person calls the stage: its name, its seed and a part of its digest where that is needed."""
        seeds = {stage.seed for stage in self.stages}
        alike = Counter((stage.name, stage.seed) for stage in self.stages)
        return {
            stage.digest: stage.name
            + (f"[{stage.seed}]" if len(seeds) > 1 else "")
            + (f" ({stage.digest[:6]})" if alike[stage.name, stage.seed] > 1 and stage.kind != "evaluate" else "")
            for stage in self.stages
        }

    def describe(self) -> dict[str, Any]:
        """What a reader of the store needs to find the results: JSON-able."""
        return {
            "experiment": self.config.experiment,
            "config": self.config.model_dump(mode="json"),
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
            "levels": {name: list(ends) for name, ends in self.levels.items()},
        }


_STAGE = {"name": str, "kind": str, "seed": int, "directory": str}
_ROW = {"method": str, "seed": int, "degradation": str, "directory": str}


def check_plan(content: Mapping[str, Any], experiment: str, path: str) -> None:
    """See whether what was read from a file is what :meth:`Plan.describe` gave, and leads nowhere else.

    Raises:
        CheckpointError: it is not.
    """
    if content.get("experiment") != experiment:
        raise CheckpointError(f"{path} is damaged: it is the plan of {content.get('experiment')!r}")
    for name, kinds in (("stages", _STAGE), ("rows", _ROW)):
        entries: list[Any] = content[name] if isinstance(content.get(name), list) else [None]
        for entry in entries:
            sound = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
            if not sound or "/" in entry["directory"] or entry["directory"] in (".", ".."):
                raise CheckpointError(f"{path} is damaged: {str(entry)[:100]} is not among the {name} of a plan")
    config = content.get("config")
    parts = [config.get(name) for name in ("model", "data", "evaluation")] if isinstance(config, dict) else [None]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(config, dict) or "protocol" not in config:
        raise CheckpointError(f"{path} is damaged: it holds no config")


def union(config: Config, plans: Sequence[Plan]) -> Plan:
    """The stages of several plans, each once; its rows are those of the plans."""
    stages = {stage.digest: stage for plan in plans for stage in plan.stages}
    rows = tuple(row for plan in plans for row in plan.rows)
    return Plan(config, tuple(stages.values()), rows)


def every(levels: range, step: int) -> tuple[int, ...]:
    """Every so many levels and the last, so that whatever is left out lies between two measured ones."""
    return tuple(dict.fromkeys([*levels[::step], levels[-1]]))


def spread(levels: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many of the levels, evenly spread, the first and the last among them; all where there are no more."""
    count = min(count, len(levels))
    return tuple(levels[round(i * (len(levels) - 1) / max(1, count - 1))] for i in range(count))


def cut(levels: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    """Neighbouring levels in so many parts (at most one level each) whose sizes differ by one at most."""
    parts = max(1, min(parts, len(levels)))
    ends = [len(levels) * i // parts for i in range(parts + 1)]
    return [levels[a:b] for a, b in itertools.pairwise(ends)]
