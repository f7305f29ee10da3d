"""BatchNorm's statistics of merged networks come from images as their training saw them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusiondistill import ImageSet
from fusiondistill.batches import as_in_training
from fusiondistill.config_file import parse
from fusiondistill.recipe import Augmentation
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import MergeSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from test_evaluate_stage import CPU, data_spec, imported

PLAIN = {"crop_padding": 0, "resized_crop": None, "resized_crop_ratio": (0.75, 4 / 3), "cutout": 0,
         "largest_cutout": None}  # fmt: skip


def share(changes: dict[str, object]) -> float:
    """The share of white in what a training sees of white images."""
    white = ImageSet("white", torch.full((600, 3, 16, 16), 255, dtype=torch.uint8), torch.zeros(600).long(), ["a"],
                     statistics=((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)))  # fmt: skip
    clean = [{"name": "noise", "levels": [0]}, {"name": "blur", "levels": [0]}]
    seen = as_in_training(
        white, clean, Augmentation(**{**PLAIN, **changes}), seed=1, protocol="standard", device=CPU, batch_size=64
    )
    batches = list(seen)
    assert [len(batch) for batch in batches] == [128] * 9 + [48], "each image once under each degradation"
    return float(torch.cat(batches).mean())


def test_borders_and_holes_are_among_the_images() -> None:
    assert share({}) == 1
    kept = 1 - sum(abs(step - 4) for step in range(9)) / 9 / 16  # of a side, at offsets of 0 to 8 with 4 black pixels
    assert share({"crop_padding": 4}) == pytest.approx(kept**2, abs=0.01)
    assert share({"cutout": None, "largest_cutout": 2}) == pytest.approx(share({"cutout": 2}), abs=1e-6)
    assert 1 - share({"cutout": 4}) == pytest.approx(16 / 256, abs=0.02), "a hole may hang over the edge"


@pytest.mark.parametrize("told", [None, "blur"])
def test_a_merge_recomputes_statistics_on_such_images(told: str | None, tmp_path: Path) -> None:
    noise, blur = (imported(tmp_path, seed)[0] for seed in range(2))
    given = {"merge": "average", "parameters": {}, "told": told, "images": 100, "degradations": ("noise", "blur")}
    found = []
    for padding in (0, 6):
        spec = MergeSpec(
            **given, data=data_spec().model_copy(update={"train_images": 150}), protocol="standard", data_seed=7,
            threads=1, recalibrate="mixed", augmentation=Augmentation(**{**PLAIN, "crop_padding": padding}),
        )  # fmt: skip
        stage = Stage("fused", 0, spec, {"expert-noise": noise, "expert-blur": blur})
        execute(stage, Context(str(tmp_path / "store")), CPU, lambda *_: None)
        state, _ = Store(tmp_path / "store").weights(stage)
        found.append(state[min(name for name in state if name.endswith("running_var"))])
    assert not torch.allclose(*found, rtol=0.05), "black borders change what the layers see"


CONFIG = """
experiment: augmented
data: {name: digits}
model: {name: cifar_resnet8}
methods: [modelsoups]
expert: {cutout: 3}
"""


def merged(text: str) -> Stage:
    (stage,) = [stage for stage in build(parse(text), "", lambda name: range(3)).stages if stage.kind == "fuse"]
    return stage


def test_the_plan_says_how_the_merged_networks_were_trained() -> None:
    plain, other = merged(CONFIG), merged(CONFIG.replace("cutout: 3", "cutout: 4"))
    assert isinstance(plain.spec, MergeSpec) and plain.spec.augmentation is not None
    assert (plain.spec.augmentation.cutout, plain.spec.augmentation.crop_padding) == (3, 4)
    assert plain.spec.digested()["augmentation"] != other.spec.digested()["augmentation"]


@pytest.mark.parametrize("recalibrate", ["none", "average"])
def test_where_no_image_is_seen_nothing_of_it_is_digested(recalibrate: str) -> None:
    text = CONFIG + f"modelsoups: {{start: {{merge: average, of: expert, recalibrate: {recalibrate}}}}}"
    assert "augmentation" not in merged(text).spec.digested()
