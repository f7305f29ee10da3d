"""A stage is a value: what to do, on what, with which inputs. Its digest names its directory.

The digest covers what can change the result (kind, spec, inputs, seed, the code that it uses), not where or when it
runs; so resuming, caching and sharing are one mechanism.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

from fusiondistill.registry import REGISTRIES
from fusiondistill_runner.planning.specs import Spec

__all__ = ["FORMAT", "Stage", "ancestors", "priorities"]

FORMAT = 2
"""Of digests and noted plans; the runner refuses a store of another format."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One unit of work with a stored result.

    Attributes:
        name: its name for readers; the directory's name begins with it, the digest leaves it out.
        seed: of the run that it belongs to.
        spec: what to do.
        inputs: role -> the stage whose result plays it.
    """

    name: str
    seed: int
    spec: Spec
    inputs: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """train, fuse, search, fit, pack, evaluate, validate or import."""
        return self.spec.kind

    @cached_property
    def code(self) -> dict[str, str]:
        """Entry (``losses/kd``) -> its version, or the digest of the plugin that it comes from.

        A worker has loaded the plugins of the run before it asks.
        """
        found = {f"{folder}/{name}": _entry_code(folder, name) for folder, name in self.spec.entries()}
        return dict(sorted(found.items()))

    @cached_property
    def digest(self) -> str:
        """sha256 over everything that can change the result."""
        content = {
            "format": FORMAT,
            "kind": self.kind,
            "version": self.spec.version,
            "spec": self.spec.digested(),
            "seed": self.seed,
            "inputs": {role: stage.digest for role, stage in self.inputs.items()},
            "code": self.code,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def directory(self) -> str:
        """Its directory within the store."""
        return f"{self.name}-{self.digest[:16]}"

    @property
    def work(self) -> float:
        """A rough size, in epochs of one degradation: for ordering and for estimating the time left."""
        return self.spec.work(len(self.inputs))


def _entry_code(folder: str, name: str) -> str:
    """What stands for an entry's code in a digest."""
    import_module(f"fusiondistill.{folder}")
    return REGISTRIES[folder].code_of(name)


def ancestors(stage: Stage) -> Iterator[Stage]:
    """The stages that a stage rests on, itself last; each once."""
    seen: set[str] = set()

    def walk(one: Stage) -> Iterator[Stage]:
        if one.digest not in seen:
            seen.add(one.digest)
            for needed in one.inputs.values():
                yield from walk(needed)
            yield one

    yield from walk(stage)


def priorities(stages: Sequence[Stage]) -> dict[str, float]:
    """Longest path first: a stage's work plus the longest work that waits for it, by digest.

    Args:
        stages: inputs before what uses them.
    """
    longest: dict[str, float] = {}
    for stage in reversed(stages):
        own = longest.setdefault(stage.digest, 0.0) + stage.work
        longest[stage.digest] = own
        for needed in stage.inputs.values():
            longest[needed.digest] = max(longest.get(needed.digest, 0.0), own)
    return longest
