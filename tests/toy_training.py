"""A ten-line network and data for it; :func:`worker` is one of two data-parallel processes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from fusiondistill.batches import Pipeline
from fusiondistill.data import ImageSet
from fusiondistill.progress import Progress
from fusiondistill.recipe import Recipe, with_keys
from fusiondistill.training import NonFiniteLoss, train


class Toy(nn.Module):
    """Convolution, maybe BatchNorm, and a head; without BatchNorm every image is on its own."""

    def __init__(self, seed: int, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: torch.Tensor, features: bool = False) -> Any:
        feature = torch.tanh(self.norm(self.conv(x)))
        logits = self.fc(feature.flatten(1))
        return (logits, feature) if features else logits


def make_set() -> ImageSet:
    """21 images of 8x8 in 3 classes."""
    images = torch.randint(0, 256, (21, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = ((127.0,) * 3, (70.0,) * 3)
    return ImageSet("toy", images, torch.arange(21) % 3, ["a", "b", "c"], statistics=statistics)


def make_pipeline(degradations: tuple[str, ...], **other: Any) -> Pipeline:
    """Batches of 8 images of :func:`make_set` per degradation: 3 steps, the last with 5."""
    settings: dict[str, Any] = {
        "seed": 0, "batch_size": 8, "flip": True, "padding": 1, "cutout": 2, "pairing": "independent",
        "teacher_view": "clean", "protocol": "standard", "device": torch.device("cpu"),
    }  # fmt: skip
    return Pipeline(make_set(), degradations, **{**settings, **other})


def make_recipe(epochs: int, optimizer: str = "sgd", ce: float = 1.0, **loss: float) -> Recipe:
    """Learning rate 0.05, multiplied by 0.2 at half and at three quarters."""
    return Recipe.model_validate(
        {
            "epochs": epochs,
            "optimizer": {"name": optimizer, "lr": 0.05, "momentum": 0.8, "weight_decay": 0.01},
            "schedule": {"name": "steps", "milestones": [0.5, 0.75]},
            "loss": {"ce": ce, **loss},
        }
    )


BATCH_SIZES = (8, 9)
"""Of 21 images: with 8 the tail of 5 is cut between the two processes, with 9 the tail of 3 is done by both."""


WAYS: dict[str, dict[str, Any]] = {
    "plain": {}, "mixed": {"mixup": 0.4, "pull": 0.3, "loss.kd": 0.5, "loss.kd.fade": 1.0},
    "apart": {"batchnorm": "apart"},
}  # fmt: skip
"""What is changed of a recipe."""


def distilled(changes: dict[str, Any], batch_size: int, **other: Any) -> Progress:
    """A training under two degradations by two teachers, together where images are mixed."""
    recipe = with_keys(make_recipe(epochs=3, feature=1.0), changes)
    pipeline = make_pipeline(("noise", "blur"), batch_size=batch_size, mixup=recipe.mixup, **other)
    by = "confidence" if recipe.mixup else "degradation"
    return train(Toy(1), recipe, pipeline, seed=0, teachers=[Toy(2), Toy(3)], taught_by=by)


def worker(folder: Path, rank: int) -> None:
    """One of two data-parallel processes."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    for way, settings in WAYS.items():
        for batch_size in BATCH_SIZES:
            progress = distilled(settings, batch_size, rank=rank, world_size=2)
            if rank == 0:
                torch.save(asdict(progress), folder / f"result-{way}-{batch_size}.pt")
    model = Toy(1)
    if rank == 1:  # NaN on one worker, in the second step
        calls = iter(range(9))
        model.register_forward_hook(lambda m, i, out: out * float("nan") if next(calls) == 1 else out)
    pipeline = make_pipeline(("noise", "blur"), batch_size=BATCH_SIZES[-1], rank=rank, world_size=2)
    try:
        train(model, make_recipe(epochs=2), pipeline, seed=0)
    except NonFiniteLoss as error:
        (folder / f"nan-{rank}").write_text(f"{error.epoch} {error.step}")
    distributed.destroy_process_group()
