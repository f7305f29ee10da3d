"""A config as a run without Ray takes it: with one worker, and without ASHA. Nothing here imports torch."""

from __future__ import annotations

from fusiondistill.config import Config, SearchConfig
from fusiondistill.methods import Trained

__all__ = ["WITHOUT_ASHA", "alone"]

WITHOUT_ASHA = (
    "--local: without ASHA, which needs trials side by side; the search is planned with scheduler: none, so its stages "
    "are others than those of a run through Ray"
)


def alone(config: Config) -> Config:
    """The config for one process.

    Raises:
        ValueError: its trainings want several workers each.
    """
    if config.resources.workers_per_run > 1:
        raise ValueError(
            f"resources.workers_per_run is {config.resources.workers_per_run}, but --local has one worker: set it to 1 "
            "(the results are others then), or run without --local"
        )
    return config.model_copy(update={"search": tuple(_without_asha(config, search) for search in config.search)})


def _without_asha(config: Config, search: SearchConfig) -> SearchConfig:
    """The search without ASHA, so that each trial trains all its epochs; trials of one epoch do so in any case."""
    searched = config.table[search.of]
    epochs = search.epochs or (searched.epochs if isinstance(searched, Trained) else 0)
    return search.model_copy(update={"scheduler": "none"}) if search.scheduler == "asha" and epochs > 1 else search
