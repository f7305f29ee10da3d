"""Turn several expert classifiers into one that needs no knowledge of the degradation.

The public names below are loaded on first use, so that ``import fusiondistill`` costs nothing.
"""

from __future__ import annotations

from fusiondistill.lazy import lazily

__version__ = "0.2.0"

NAME = "fusiondistill"
"""The package's own name, which is also that of one of its methods."""

_HOMES = {
    "DEGRADATIONS": "degradations",
    "PAPER_DEGRADATIONS": "degradations",
    "Config": "config",
    "DataError": "data",
    "LOSSES": "losses",
    "MERGING": "merging",
    "Ensemble": "models",
    "INFERENCE": "inference",
    "METHODS": "methods",
    "ImageClassifier": "models",
    "ImageSet": "data",
    "average": "state_dicts",
    "NETWORKS": "networks",
    "SOURCES": "sources",
    "compose": "degradations",
    "degrade_grid": "degradations",
    "build_model": "models",
    "fit": "fitting",
    "degrade": "degradations",
    "evaluate": "evaluation",
    "load_checkpoint": "checkpoints",
    "load_images": "data",
    "load_model": "checkpoints",
    "merge": "merging",
    "predict": "prediction",
    "recalibrate_batchnorm": "recalibration",
    "reference_degrade": "degradations",
    "register": "degradations",
    "save_checkpoint": "checkpoints",
}
__all__ = ["__version__", *_HOMES]


__getattr__ = lazily(__name__, __name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
