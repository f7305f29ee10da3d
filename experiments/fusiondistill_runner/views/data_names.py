"""What the views of a store call a data set: tables are matched by this name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from fusiondistill.sources import SOURCES

__all__ = ["data_name", "group_names"]


def group_names(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What names the tables of a plan: experiment, dataset, model and protocol."""
    config = plan["config"]
    return {
        "experiment": plan["experiment"],
        "dataset": data_name(config),
        "model": config["model"]["name"],
        "protocol": config["protocol"],
    }


def data_name(config: Mapping[str, Any]) -> str:
    """The name of a data set; with the end of its root where the name alone says nothing: ``folder mine``."""
    name, root = config["data"]["name"], config["data"].get("labels") or config["data"].get("root")
    known = SOURCES.get(name)
    return f"{name} {PurePath(root).name}" if root and (known is None or known.needs_root) else name
