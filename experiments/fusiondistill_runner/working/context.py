"""Where a stage runs: what a worker has to be told besides the stage itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusiondistill.registry import Plugin
from fusiondistill_runner.planning.specs import DataSpec

__all__ = ["Context", "DataSet", "Place", "Report"]

Report = Callable[[dict[str, Any]], None]
"""Takes facts about a stage in progress: ``epoch``, ``epochs``, ``validation``, ..."""


Place = str | tuple[str, ...] | None
"""Where the files of a data set lie, absolute; several of a source that takes several; None: its own place."""


@dataclass(frozen=True)
class DataSet:
    """A data set at a place, and the fingerprint that its files must have: all that a process needs to look for it."""

    name: str
    root: Place
    fingerprint: str
    """Of the driver's files."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Of its source, and of size and test split, as a config has them. The fingerprint covers them, ``hash`` does not:
    a list cannot be hashed."""

    @classmethod
    def of(cls, data: DataSpec, root: Place) -> DataSet:
        """The whole data set that a stage takes its images from."""
        return cls(data.name, root, data.fingerprint, data.loading)

    @property
    def label(self) -> str:
        """Name, parameters and place."""
        said = [f"{name} {value}" for name, value in self.parameters.items()]
        said += [self.root] if isinstance(self.root, str) else self.root or []
        return f"{self.name} ({', '.join(said)})" if said else self.name


@dataclass(frozen=True)
class Context:
    """Where a stage runs, which cannot change its result."""

    store: str
    roots: tuple[tuple[str, Place], ...] = ()
    """(fingerprint, where its files lie) of each data set that lies at its own place."""
    corruptions: tuple[tuple[str, str], ...] = ()
    """(digest, folder) of each published corruption."""
    evaluation_batch: int = 500
    plugins: tuple[Plugin, ...] = ()
    """The users' files that register entries; every process runs them before it does a stage."""
    worker: str = "local"
    capture: bool = True
    """Whether training steps on CUDA become graphs."""
    share: float = 1.0
    """Of a GPU that is a worker's own."""

    def root(self, data: DataSpec) -> Place:
        """Where the files of a data set lie; None: where the data set is by default."""
        return dict(self.roots).get(data.fingerprint)

    def corruption_folder(self, digest: str) -> str:
        """The folder that holds a published corruption."""
        return dict(self.corruptions)[digest]
