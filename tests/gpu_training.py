"""A small network and batches for a GPU; run as a script it is one of two data-parallel processes on one GPU."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from fusiondistill.batches import Pipeline
from fusiondistill.data import ImageSet
from fusiondistill.models import build_model
from fusiondistill.recipe import Recipe
from fusiondistill.training import train
from toy_training import make_pipeline

NAMES = ("jpeg", "blur", "noise", "saltpepper")


def run_both(*arguments: str, seconds: float = 250) -> None:
    """Run this interpreter twice, side by side, with these arguments and then a rank, 0 and 1; both have to succeed."""
    workers = [subprocess.Popen([sys.executable, *arguments, rank]) for rank in "01"]
    try:
        assert [worker.wait(seconds) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("cifar_resnet8", 3)


def recipe(epochs: int, **settings: Any) -> Recipe:
    schedule = {"name": "steps", "milestones": [0.5]}
    made = {"optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.8}, "loss": {"ce": 1.0}, **settings}
    return Recipe.model_validate({"epochs": epochs, "schedule": schedule, **made})


def pipeline(device: torch.device, images: int = 48, **other: Any) -> Pipeline:
    """Batches of 12 images of 16x16 for each of the four degradations."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 16, 16), dtype=torch.uint8, generator=generator)
    statistics = ((127.0,) * 3, (70.0,) * 3)
    data = ImageSet("gpu", pixels, torch.arange(images) % 3, ["a", "b", "c"], statistics=statistics)
    made = make_pipeline(NAMES, batch_size=12, device=device, **other)
    return Pipeline(**{**vars(made), "images": data})


def _worker(folder: Path, rank: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for sync in (True, False):
        parts = pipeline(torch.device("cuda"), rank=rank, world_size=2, teacher_view=None)
        done = train(network(1), recipe(epochs=3), parts, seed=0, sync_batchnorm=sync)
        if rank == 0:
            torch.save(asdict(done), folder / f"{sync}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    _worker(Path(sys.argv[1]), int(sys.argv[2]))
