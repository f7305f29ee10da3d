"""What stages are made of: the context they run in, their images, their networks, and the facts noted about them."""

from __future__ import annotations

import os
import platform
import socket
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusiondistill import checkpoints
from fusiondistill.config import ModelConfig
from fusiondistill.data import DataError, ImageSet, fingerprint, load_images
from fusiondistill.models import build_model
from fusiondistill.plugins import Plugin
from fusiondistill_runner.planning.stage import DataSpec, Stage
from fusiondistill_runner.storage.store import Store

__all__ = [
    "Context",
    "card_for",
    "image_size",
    "load_data",
    "load_into",
    "load_split",
    "new_network",
    "processor",
    "run_facts",
    "splits",
]


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


@lru_cache(maxsize=4)
def load_split(name: str, split: str, root: str | None, expected: str) -> ImageSet:
    """All images of a split, fetched and decoded into this node's cache if need be.

    Raises:
        DataError: they are not here, or not those of the ``expected`` fingerprint; names the node and says what to do.
    """
    node = socket.gethostname()
    try:
        found = fingerprint(name, root=root)
    except DataError as error:
        raise DataError(
            f"the data set {name!r} is not on the node {node}: {error} Every node needs it: give a data.root that all "
            "nodes share, or copy the files to one place on each; `fusiondistill cluster check CONFIG` asks them all"
        ) from error
    if found != expected:
        raise DataError(
            f"the data set {name!r} on the node {node} is not the one that this run was planned with "
            f"(fingerprint {found[:12]}, planned {expected[:12]}): copy the same files to every node"
        )
    return load_images(name, split, root)


@lru_cache(maxsize=8)
def load_data(data: DataSpec, root: str | None, split: str) -> ImageSet:
    """The images of a split, cut down to what the run uses; the same object again within a process."""
    images = load_split(data.name, split, root, data.fingerprint)
    if data.mean or data.std:
        images = images.normalised_by(data.mean or images.mean, data.std or images.std)
    wanted = data.train_images if split == "train" else data.test_images
    return images if wanted is None or wanted >= len(images) else images.take(wanted)


@lru_cache(maxsize=8)
def splits(data: DataSpec, root: str | None, select: str) -> tuple[ImageSet, ImageSet | None]:
    """(training images, images that the epoch is chosen on)."""
    images = load_data(data, root, "train")
    held_out = None
    if data.held_out:
        images, held_out = images.holdout(data.held_out, data.holdout_seed)
    if select == "test":
        held_out = load_data(data, root, "test")
    return images, held_out


def new_network(model: ModelConfig, images: ImageSet) -> nn.Module:
    """The network of a config with a head for these classes; draws its weights from torch's generator."""
    return build_model(model.name, len(images.classes), feature_layer=model.feature_layer)


def load_into(network: nn.Module, store: Store, source: Stage) -> nn.Module:
    """Give a network the weights of a stored stage; a misfit names the first tensors that differ."""
    state, _ = store.weights(source)
    if difference := state_difference(network.state_dict(), state):
        raise checkpoints.CheckpointError(f"the weights of {source.directory} do not fit the network: {difference}")
    network.load_state_dict(state)
    return network


def image_size(images: ImageSet) -> tuple[int, int]:
    """(height, width) in pixels."""
    height, width = images.gather([0])[0].shape[2:]
    return height, width


def card_for(model: ModelConfig, images: ImageSet) -> dict[str, Any]:
    """The card of a checkpoint trained on these images."""
    height, width = image_size(images)
    return checkpoints.card_of(
        model.name,
        model.feature_layer,
        classes=list(images.classes),
        mean=tuple(images.mean),
        std=tuple(images.std),
        size=(height, width),
        dataset=images.name,
    )


@cache
def processor() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def run_facts(began: float, context: Context, device: torch.device) -> dict[str, Any]:
    """When, where and with which versions a stage was done: part of its manifest."""
    import torchvision

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "started": began,
        "finished": time.time(),
        "seconds": time.time() - began,
        "host": socket.gethostname(),
        "worker": f"{context.worker} (process {os.getpid()})",
        "device": name,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }
