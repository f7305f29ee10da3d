"""What each row costs: parameters, forward passes an image, and the training images that its networks saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import CheckpointError
from fusiondistill.report.methods import Method, methods_of
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["costs_table"]

_TRAINED = ("clean", "each", "all")
_SCHEMA = {
    **dict.fromkeys(("experiment", "method"), "string"),
    **dict.fromkeys(("seed", "parameters", "passes", "own_images", "all_images"), "int64"),
}


def costs_table(store: Store, plans: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One row per planned (experiment, method, seed).

    parameters: of all its networks at run time; passes: forward passes an image. own_images: training images that the
    row's own training saw, 0 where it has none (merged and combined rows). all_images: those and the images that all of
    its starts, merged networks, teachers and searches saw, each training once. An image counts once each time that a
    network is trained on it, so once an epoch under each degradation; the fit of a router or the like counts the images
    that it looked at. Images on which BatchNorm's statistics are
    recomputed and what a checkpoint from outside saw are not counted. Both are null where such a checkpoint is the
    row's own network, and while a training or an evaluation of the row is not stored.
    """
    import pyarrow as pa

    counted = _Images(store)
    rows: list[dict[str, Any]] = []
    for plan in plans:
        methods = methods_of(plan)
        pieces: dict[tuple[str, int], dict[str, None]] = {}
        for row in plan["rows"]:
            pieces.setdefault((row["method"], row["seed"]), {})[row["directory"]] = None
        for (name, seed), directories in pieces.items():
            about = methods[name]
            given = {"experiment": plan["experiment"], "method": name, "seed": seed}
            own = {"parameters": about.parameters, "passes": about.passes}
            rows.append({**given, **own, **counted.of_row(about, list(directories))})
    return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in _SCHEMA.items()})


class _Images:
    """Training images of the stages of a store, each looked at once."""

    def __init__(self, store: Store) -> None:
        self.store, self.manifests = store, cache(store.manifest_of)
        self.seen, self.below = cache(self._seen), cache(self._below)

    def of_row(self, about: Method, evaluations: Sequence[str]) -> dict[str, int | None]:
        """``own_images`` and ``all_images`` of a row that these stages evaluate."""
        manifests = [self.manifests(directory) for directory in evaluations]
        networks = {needed for manifest in manifests if manifest for needed in manifest["inputs"].values()}
        under: frozenset[str] = frozenset().union(networks, *(self.below(network) for network in networks))
        given = any((self.manifests(network) or {}).get("kind") == "import" for network in networks)
        whole = all(manifests) and about.form and not given
        return {
            "own_images": self._sum(networks if about.form in _TRAINED else ()) if whole else None,
            "all_images": self._sum(under) if whole else None,
        }

    def _sum(self, directories: Any) -> int | None:
        """The images of these stages together; None where one is unknown."""
        found = [self.seen(directory) for directory in directories]
        return None if None in found else sum(one for one in found if one is not None)

    def _below(self, directory: str) -> frozenset[str]:
        """All stages that a stage is made from."""
        found: set[str] = set()
        waiting = [directory]
        while waiting:
            manifest = self.manifests(waiting.pop())
            new = set(manifest["inputs"].values() if manifest else ()) - found
            found |= new
            waiting += new
        return frozenset(found)

    def _seen(self, directory: str) -> int | None:
        """The images that a stage trained on; 0 where it trains nothing, None where that is not stored."""
        manifest = self.manifests(directory)
        try:
            if manifest is None:
                return None
            if manifest["kind"] == "search":
                return self._of_search(directory)
            if manifest["kind"] == "fit":
                return int(manifest["outcome"].get("seen", 0))
            return sum(self._epochs(directory)) if manifest["kind"] == "train" else 0
        except CheckpointError:
            return None

    def _epochs(self, directory: str) -> list[int]:
        """The images of each epoch of a training."""
        table = read_parquet(self.store.read_from(directory, "metrics.parquet"))
        if "images" not in table.column_names:
            raise CheckpointError(f"{directory} does not say how many images it saw")
        return [round(value) for value in table["images"].to_pylist()]

    def _of_search(self, directory: str) -> int | None:
        """The images of a search's trials, without a trial that is the row's own training and counted as such.

        Trials that were stopped early are not stored: their epochs count as many images as those of the others.
        """
        trials = read_parquet(self.store.read_from(directory, "trials.parquet")).to_pylist()
        stored = [one["directory"] for one in trials if one.get("directory") and self.manifests(one["directory"])]
        epochs = sum(one["epochs"] * (one.get("seeds") or 1) for one in trials)
        epochs -= sum(one["epochs"] for one in trials if one.get("directory") in self.below(directory))
        if not epochs:
            return 0
        return epochs * self._epochs(stored[0])[0] if stored else None
