"""Where a stage runs: what a worker has to be told besides the stage itself."""

from __future__ import annotations

from dataclasses import dataclass

from fusiondistill.registry import Plugin
from fusiondistill_runner.planning.specs import DataSpec

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """Where a stage runs, which cannot change its result."""

    store: str
    roots: tuple[tuple[str, str | None], ...] = ()
    """(fingerprint, where its files lie) of each data set that lies at a place of its own."""
    corruptions: tuple[tuple[str, str], ...] = ()
    """(digest, folder) of each published corruption."""
    evaluation_batch: int = 500
    plugins: tuple[Plugin, ...] = ()
    """The users' files that register entries; every process runs them before it does a stage."""
    worker: str = "local"

    def root(self, data: DataSpec) -> str | None:
        """Where the files of a data set lie; None: where the data set is by default."""
        return dict(self.roots).get(data.fingerprint)

    def corruption_folder(self, digest: str) -> str:
        """The folder that holds a published corruption."""
        return dict(self.corruptions)[digest]
