"""A batch that cannot fit the device is refused before training starts, with one that would."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from fusiondistill import room
from fusiondistill.evaluation import Conditions, judge, judge_images
from fusiondistill.fitting import Training
from fusiondistill.models import ImageClassifier
from fusiondistill.room import BatchTooLarge, check_room, kept_by_a_step
from fusiondistill_runner.working.errors import describe
from toy_training import Toy, make_recipe, make_set

CPU = torch.device("cpu")
IMAGE = torch.Size((3, 8, 8))


def free(monkeypatch: pytest.MonkeyPatch, count: float) -> None:
    monkeypatch.setattr(room, "free_memory", lambda device: int(count))


def test_what_a_pass_saves_is_counted_once_and_without_weights() -> None:
    """By hand: the images for the convolution, its output for BatchNorm, and tanh's, which the head reads, too."""
    floats = 3 * 8 * 8 + 4 * 4 * 4 + 4 * 4 * 4
    network = Toy(0, norm=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics = 4 * 2 * 2 / 2  # BatchNorm's mean and deviation, float32 [4] each, on two images
    assert kept_by_a_step(network, IMAGE, CPU, "fp32") == pytest.approx(4 * floats + 4 * statistics, rel=0.05)
    assert kept_by_a_step(network, IMAGE, CPU, "bf16") < 0.8 * 4 * floats
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_it_names_fits_and_what_it_refuses_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    each = kept_by_a_step(Toy(0), IMAGE, CPU, "fp32")
    free(monkeypatch, each * 4 * 100 + 10_000)  # a hundred images of each of four degradations, and the weights
    check_room(Toy(0), IMAGE, 100, 4, CPU, "fp32")
    with pytest.raises(BatchTooLarge, match=r"1,000 images of each of 4 degradations needs .* on cpu, where") as caught:
        check_room(Toy(0), IMAGE, 1000, 4, CPU, "fp32")
    (largest,) = re.findall(r"a batch_size of (\d+) would fit$", str(caught.value))
    assert 50 < int(largest) <= 100 and int(largest) % 8 == 0
    check_room(Toy(0), IMAGE, int(largest), 4, CPU, "fp32")
    free(monkeypatch, 100)
    with pytest.raises(BatchTooLarge, match=r"a batch of 2 images needs .*: no batch would fit: take a smaller"):
        check_room(Toy(0), IMAGE, 2, 1, CPU, "fp32")


def test_a_training_is_refused_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    training, network, calls = Training(make_recipe(epochs=1), make_set()), Toy(0), list[Any]()
    network.register_forward_hook(lambda *given: calls.append(given) if torch.is_grad_enabled() else None)
    weight = network.conv.weight.detach().clone()
    free(monkeypatch, 20_000)
    with pytest.raises(BatchTooLarge) as caught:
        training.run(network)
    assert torch.equal(network.conv.weight, weight) and describe(caught.value) == str(caught.value)


def test_where_there_is_plenty_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "kept_by_a_step", None)
    free(monkeypatch, 1e9)
    check_room(nn.Linear(1, 1), IMAGE, 100, 4, CPU, "fp32")


def test_teachers_and_others_on_the_gpu_take_room(monkeypatch: pytest.MonkeyPatch) -> None:
    each = kept_by_a_step(Toy(0), IMAGE, CPU, "fp32")
    free(monkeypatch, each * 200)
    check_room(Toy(0), IMAGE, 100, 1, CPU, "fp32")
    with pytest.raises(BatchTooLarge, match=r"a batch_size of \d+ would fit"):
        check_room(Toy(0), IMAGE, 100, 1, CPU, "fp32", teachers=[nn.Linear(int(each * 25 / 8), 9)])
    with pytest.raises(BatchTooLarge, match=r"where 0\.0 GB are free: no batch would fit"):
        check_room(Toy(0), IMAGE, 100, 1, CPU, "fp32", teachers=[nn.Linear(int(each), 900)])
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3e9, 8e9))
    free(monkeypatch, 3e9)
    assert [room._own(gpu, share) for share in (1, 0.5, 0.25)] == [3e9, 3e9, 2e9] and room._own(CPU, 0.25) == 3e9
    monkeypatch.setattr(room, "kept_by_a_step", lambda *given: 1e6)
    check_room(Toy(0), IMAGE, 2500, 1, gpu, "fp32")
    with pytest.raises(BatchTooLarge, match=r"on cuda:0, where 2\.0 GB are free: a batch_size of 1,392 would fit"):
        check_room(Toy(0), IMAGE, 2500, 1, gpu, "fp32", share=0.25)


def test_a_batch_that_is_judged_has_room_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 6 * 192 * 15)
    images, model = make_set(), ImageClassifier(Toy(0), (127.0,) * 3, (70.0,) * 3, ["a", "b", "c"])
    judge(model, images, Conditions("blur", [1], 0, 15))
    with pytest.raises(
        BatchTooLarge, match=r"a batch of 21 images to be evaluated .* evaluation.batch_size of 7 would"
    ):
        judge(model, images, Conditions("blur", [1], 0, 500))
    with pytest.raises(BatchTooLarge):
        judge_images(model, [images.images], images.labels, batch_size=20)


def test_memory_that_ends_on_the_way_is_a_line() -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), MemoryError(), allocation_failed()):
        said = describe(error)
        assert said.startswith("out of memory: lower the method's batch_size, or evaluation.batch_size"), said
        assert "\n" not in said


def allocation_failed() -> Exception:
    """What torch raises on a CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value
