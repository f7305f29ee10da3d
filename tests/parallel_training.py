"""A BatchNorm network and teachers for data-parallel training; :func:`worker` is one of two processes."""

from __future__ import annotations

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
from toy_training import BATCH_SIZES, make_pipeline

EPOCHS = 3
DEGRADATIONS = ("noise", "blur", "jpeg")
SIZES = BATCH_SIZES
"""Of 21 images: with 8 the tail of 5 is cut in 3 and 2, with 9 the tail of 3 is done by both."""


def network(seed: int) -> nn.Module:
    """A ResNet with BatchNorm, nine of them."""
    torch.manual_seed(seed)
    return build_model("cifar_resnet8", 3)


def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "epochs": EPOCHS,
            "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.8, "weight_decay": 0.01},
            "schedule": {"name": "steps", "milestones": [0.5], "factor": 0.2},
            "loss": {"ce": 0.5, "feature": 2.0, "kd": 0.25, "temperature": 3.0},
        }
    )


def pipeline(batch_size: int, **other: Any) -> Pipeline:
    """21 images of 16x16 per degradation."""
    images = torch.randint(0, 256, (21, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = ((127.0,) * 3, (70.0,) * 3)
    data = ImageSet("parallel", images, torch.arange(21) % 3, ["a", "b", "c"], statistics=statistics)
    made = make_pipeline(DEGRADATIONS, batch_size=batch_size, **other)
    return Pipeline(**{**vars(made), "images": data})


def worker(folder: Path, rank: int) -> None:
    """One of the two processes."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for size in SIZES:
        student, teachers = network(1 + 50 * rank), [network(10 + i) for i in range(3)]  # rank 0's weights count
        kept: list[Any] = []
        train(
            student,
            recipe(),
            pipeline(size, rank=rank, world_size=2),
            seed=0,
            teachers=teachers,
            on_epoch=lambda progress, kept=kept: kept.append(asdict(progress)),
        )
        torch.save(kept or list(student.state_dict().values()), folder / f"{size}-{rank}.pt")
    distributed.destroy_process_group()


def sent(folder: Path, rank: int) -> None:
    """One of two processes of which the first sends bytes, or None, to the other."""
    from fusiondistill_runner.working.train import _same_for_all

    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    whole = bytes(range(256)) * 5000
    for content in (whole, None, b"x"):
        got = _same_for_all(content if rank == 0 else None, torch.device("cpu"), 2)
        assert got == content, (rank, got and len(got))
    distributed.barrier()  # who leaves at once may take down what the other still reads
    distributed.destroy_process_group()
