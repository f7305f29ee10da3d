"""What a GPU does against what a CPU does: the same pixels, the same training but for rounding, no wait in an epoch."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu_training
from fusiondistill.data import ImageSet
from fusiondistill.degradations import DEGRADATIONS, degrade
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.folding import for_inference
from fusiondistill.training import Loop, train
from gpu_training import network, pipeline, recipe, run_both
from test_folding import classifier

if not torch.cuda.is_available():
    pytest.skip("no GPU here", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DISTILLING: dict[str, float] = {"ce": 0.5, "feature": 1.0, "kd": 0.25, "temperature": 3.0}


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    """Half of them noise, half of them flat: what rounding hangs on."""
    generator = torch.Generator().manual_seed(3)
    busy = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
    flat = torch.randint(0, 256, (n, 3, 1, 1), dtype=torch.uint8, generator=generator).expand_as(busy)
    return torch.where(torch.arange(n).view(-1, 1, 1, 1) % 2 == 0, busy, flat).contiguous()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (8, 8)])
@pytest.mark.parametrize("protocol", ["standard", "paper"])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_same_pixels_at_every_level(name: str, protocol: str, size: tuple[int, int]) -> None:
    known = DEGRADATIONS[name].levels
    levels = torch.arange(known[0], known[-1] + 1).repeat_interleave(4)
    images, indices = pictures(len(levels), *size), torch.arange(len(levels)) * 7919 - 100
    expected = degrade(images, name, levels, seed=-5, indices=indices, protocol=protocol)
    there = degrade(images.to(GPU), name, levels.to(GPU), seed=-5, indices=indices.to(GPU), protocol=protocol)
    assert there.device.type == "cuda" and torch.equal(there.cpu(), expected)


def test_the_same_batches() -> None:
    here, there = (list(pipeline(device).epoch(3)) for device in (CPU, GPU))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.labels, other.labels.cpu()) and one.slices == other.slices
        assert one.teacher is not None and other.teacher is not None
        torch.testing.assert_close(other.student.cpu(), one.student, rtol=0, atol=1e-6)
        torch.testing.assert_close(other.teacher.cpu(), one.teacher, rtol=0, atol=1e-6)


def trained(device: torch.device, epochs: int = 3, images: int = 48, **settings: Any) -> Any:
    teachers = [network(10 + i) for i in range(len(gpu_training.NAMES))]
    start = settings.pop("start", None)
    made = recipe(epochs=epochs, loss=DISTILLING, **settings)
    parts = pipeline(device, images, channels_last=made.channels_last is True)
    return train(network(1), made, parts, seed=0, teachers=teachers, start=start)


@pytest.mark.parametrize("name", ["sgd", "radam", "adamw", "muon"])
def test_training_is_a_cpu_s_but_for_rounding(name: str) -> None:
    optimizer = {"name": name, "lr": 0.01}
    here, there = trained(CPU, optimizer=optimizer), trained(GPU, optimizer=optimizer)
    for epoch, (one, other) in enumerate(zip(here.rows, there.rows, strict=True)):
        for term in ("loss", "ce", "feature", "kd"):  # rounding grows from step to step
            assert other[term] == pytest.approx(one[term], rel=0.02 * (epoch + 1)), (name, term, epoch)
    assert all(tensor.device.type == "cpu" for tensor in there.best.values())


def test_a_training_goes_on_where_it_stopped() -> None:
    """A GPU's sums come in any order, so what goes on is near what never stopped, not equal."""
    whole, half = trained(GPU, epochs=4), trained(GPU, epochs=2)
    rest = trained(GPU, epochs=4, start=half)
    assert rest.epoch == 4 and [row["epoch"] for row in rest.rows] == [1, 2, 3, 4]
    assert rest.rows[-1]["loss"] == pytest.approx(whole.rows[-1]["loss"], rel=0.05)
    assert rest.optimizer["state"].keys() == whole.optimizer["state"].keys()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_reduced_precision_trains_too(precision: str, channels_last: bool) -> None:
    full, reduced = trained(GPU), trained(GPU, precision=precision, channels_last=channels_last)
    assert reduced.rows[-1]["loss"] == pytest.approx(full.rows[-1]["loss"], rel=0.1)


def waits(images: int) -> int:
    """How often the host waited for the device in an epoch over so many images."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trained(GPU, epochs=1, images=images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in said)


def test_no_step_of_an_epoch_waits_for_the_device() -> None:
    trained(GPU, epochs=1)  # what happens once in a process has happened
    assert waits(images=400) == waits(images=48)


def test_evaluation_says_what_a_cpu_says() -> None:
    model = classifier("cifar_resnet20")
    images = ImageSet("pictures", pictures(301, 32, 32), torch.arange(301) % 7, [f"class {i}" for i in range(7)])
    for name in ("jpeg", "noise"):
        here = judge(for_inference(model), images, Conditions(name, [1, 25, 50], seed=0, batch_size=64))
        there = judge(for_inference(model).to(GPU), images, Conditions(name, [1, 25, 50], seed=0, batch_size=64))
        assert (here.predictions != there.predictions).double().mean() < 0.01
        assert here.nll is not None and there.nll is not None
        torch.testing.assert_close(there.nll, here.nll, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("changes", [{"scale": (0.2, 1.0)}, {"balanced": True}, {}])
def test_batches_read_ahead_or_held_are_the_cpus(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiondistill.feeding.BLOCK", 40 * 3 * 16 * 16)
    ways = [(CPU, None), (GPU, None), (GPU, 0)]
    found = [list(pipeline(device, limit=limit, **changes).epoch(1)) for device, limit in ways]
    for one, held, ahead in zip(*found, strict=True):
        assert torch.equal(held.student, ahead.student) and torch.equal(held.labels, ahead.labels)
        assert torch.equal(one.labels, held.labels.cpu())
        torch.testing.assert_close(one.student, held.student.cpu())


def test_two_workers_with_synchronised_batchnorm_are_one(tmp_path: Path) -> None:
    """Two processes share this GPU (over gloo: NCCL wants one each), each with half of every batch."""
    script = Path(gpu_training.__file__)
    run_both(str(script), str(tmp_path), seconds=200)
    alone = asdict(train(network(1), recipe(epochs=3), pipeline(GPU, 48, teacher_view=None), seed=0))
    kept = {sync: torch.load(tmp_path / f"{sync}.pt", weights_only=True) for sync in (True, False)}
    for one, both in zip(alone["rows"], kept[True]["rows"], strict=True):
        assert both["loss"] == pytest.approx(one["loss"], rel=2e-3)
    variances = [name for name in alone["model"] if name.endswith("running_var")]
    far = {sync: max(_far(kept[sync]["model"][name], alone["model"][name]) for name in variances) for sync in kept}
    assert far[True] < 0.02 < far[False]  # without, rank 0 keeps the statistics of its own halves


def _far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).abs() / other.abs()).max())


def looped(capture: bool, said: list[str], model: torch.nn.Module | None = None, **settings: Any) -> Loop:
    """48 images in batches of 12 and 10, of 4 degradations each: two shapes."""
    teachers = [network(10 + i) for i in range(len(gpu_training.NAMES))]
    made = recipe(epochs=3, loss=DISTILLING, **settings)
    parts = pipeline(GPU, 46, channels_last=made.channels_last is True)
    return Loop(model or network(1), made, parts, teachers, said.append, capture=capture)


@pytest.mark.parametrize("name", ["sgd", "radam", "adamw", "muon"])
@pytest.mark.parametrize("settings", [{}, {"precision": "bf16", "channels_last": True}])
def test_captured_steps_train_as_steps_one_by_one(name: str, settings: dict[str, Any]) -> None:
    said: list[str] = []
    plain, graphs = (looped(way, said, optimizer={"name": name, "lr": 0.01}, **settings) for way in (False, True))
    graphs.prepare()
    assert not said and graphs.captured is not None
    assert not any(bool(one.any()) for values in graphs.optimizer.state.values() for one in values.values())
    for one, other in zip(plain.model.state_dict().values(), graphs.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)  # as before the capture
    close = 0.03 if settings else 0.005
    for epoch in range(4):
        one, other = plain.epoch(epoch), graphs.epoch(epoch)
        for term in ("images", "loss", "ce", "feature", "kd"):
            assert other[term] == pytest.approx(one[term], rel=close * (epoch + 1)), (term, epoch)
    assert int(graphs.model.state_dict()["norm.num_batches_tracked"]) == 4 * 4


class Dropping(torch.nn.Module):
    """A network with dropout, which draws from torch's generator on the GPU."""

    def __init__(self, ask: bool = False) -> None:
        super().__init__()
        self.network, self.ask = network(1), ask

    def forward(self, x: torch.Tensor, features: bool = False) -> Any:
        x = torch.nn.functional.dropout(x, 0.2, self.training)
        return self.network(x * 2 if self.ask and x.max().item() > 1e9 else x, features)


def test_captured_dropout_draws_anew_in_each_step_and_the_same_in_each_run() -> None:
    rows = []
    for way in (True, True, False):
        said: list[str] = []
        loop = looped(way, said, Dropping())
        loop.prepare()
        assert not said and (loop.captured is not None) == way
        torch.manual_seed(5)
        rows.append([loop.epoch(0)["loss"] for _ in range(2)])
        loop.close()
    assert rows[0] == pytest.approx(rows[1], rel=0.01)
    assert rows[0] == pytest.approx(rows[2], rel=0.05)


def test_a_network_that_reads_the_host_trains_on_one_by_one() -> None:
    said: list[str] = []
    asking, plain = looped(True, said, Dropping(ask=True)), looped(False, said, Dropping(ask=True))
    rows = []
    for loop in (asking, plain):
        torch.manual_seed(5)
        loop.prepare()
        rows.append(loop.epoch(0)["loss"])
    assert len(said) == 1 and "_local_scalar_dense" in said[0] and "test_gpu.py, line" in said[0]
    assert asking.captured is None and rows[0] == pytest.approx(rows[1], rel=0.01)


def test_a_capture_that_fails_half_way_leaves_the_device_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch before the capture is blinded, so that CUDA itself refuses."""
    monkeypatch.setattr("fusiondistill.host_reads._waits", lambda *given: False)
    said: list[str] = []
    loop = looped(True, said, Dropping(ask=True))
    loop.prepare()
    assert len(said) == 1 and loop.captured is None
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.empty_cache()
    assert loop.epoch(0)["loss"] > 0  # dropout draws again, memory is allocated again
