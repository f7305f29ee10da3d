"""Sweeps: lists crossed into experiments, and what is said of lists that cannot be."""

from __future__ import annotations

import pytest

import mistaken
from fusiondistill import config_file
from fusiondistill.config_file import ConfigError

HEAD = "experiment: x\nseeds: [0, 1]\n"


def points(text: str, *overrides: str):  # type: ignore[no-untyped-def]
    return config_file.parse_points(HEAD + text, source="file.yaml", overrides=overrides)


def mistakes(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
    return mistaken.places(lambda: points(text, *overrides))


def test_without_a_sweep_there_is_one_point() -> None:
    whole, found = points("")
    assert found == (whole,) and whole.sweep is None


def test_lists_are_crossed_and_named() -> None:
    text = "sweep: {data.name: [cifar10, cifar100], model.name: [cifar_resnet8, cifar_resnet14]}\nbase: {epochs: 3}\n"
    whole, found = points(text)
    assert [p.experiment for p in found] == [
        "x.cifar10-cifar_resnet8", "x.cifar10-cifar_resnet14", "x.cifar100-cifar_resnet8", "x.cifar100-cifar_resnet14",
    ]  # fmt: skip
    assert [(p.data.name, p.model.name) for p in found][2] == ("cifar100", "cifar_resnet8")
    assert all(p.seeds == (0, 1) and p.table["base"].epochs == 3 and p.sweep is None for p in found)
    # Defaults that hang on a swept key are each point's own.
    assert [p.table["base"].optimizer.weight_decay for p in found] == [1e-4, 1e-4, 5e-4, 5e-4]
    assert whole.experiment == "x" and whole.sweep is not None and list(whole.sweep) == ["data.name", "model.name"]
    (one,) = points(text, "sweep={degradations: [[jpeg]]}")[1]
    assert one.experiment == "x.jpeg" and [d.id for d in one.degradations] == ["jpeg"]


def test_values_reach_any_depth_and_leave_their_neighbours_alone() -> None:
    text = "fusiondistill: {loss: {feature: 0.7}}\n"
    text += "sweep: {fusiondistill.loss.kd: [0, 0.5], protocol: [standard, paper]}\n"
    _, found = points(text)
    losses = [p.table["fusiondistill"].loss for p in found]
    weights = [(loss.weight("kd"), loss.weight("feature"), p.protocol) for loss, p in zip(losses, found, strict=True)]
    assert weights == [
        (0.0, 0.7, "standard"), (0.0, 0.7, "paper"), (0.5, 0.7, "standard"), (0.5, 0.7, "paper"),
    ]  # fmt: skip


def test_keys_that_change_together() -> None:
    text = """\
data: {train_images: 100}
sweep:
  data: [{name: cifar10}, {name: folder, root: /x}]
  size:
    - {model: {name: cifar_resnet8}, base: {epochs: 2}}
    - {model: {name: cifar_resnet14}, base: {epochs: 4}}
"""
    _, found = points(text)
    assert [(p.data.name, p.data.root, p.model.name, p.table["base"].epochs) for p in found] == [
        ("cifar10", None, "cifar_resnet8", 2), ("cifar10", None, "cifar_resnet14", 4),
        ("folder", "/x", "cifar_resnet8", 2), ("folder", "/x", "cifar_resnet14", 4),
    ]  # fmt: skip
    assert all(p.data.train_images == 100 for p in found)
    assert len({p.experiment for p in found}) == 4


def test_long_and_equal_names_become_numbers() -> None:
    many = ", ".join(f"[{', '.join(['jpeg', 'blur', 'noise', 'saltpepper'][:n])}]" for n in (1, 2, 3, 4))
    _, found = points(f"sweep: {{degradations: [{many}], model.name: [cifar_resnet8, cifar_resnet14]}}")
    assert len({p.experiment for p in found}) == 8
    values = ", ".join(str(i / 1e4) for i in range(1, 13))
    _, found = points(f"sweep: {{fusiondistill.loss.kd: [{values}], base.optimizer.lr: [0.1, 0.10001]}}")
    assert len({p.experiment for p in found}) == 24 and all(len(p.experiment) <= 64 for p in found)


def test_a_bundle_has_keys_with_dots_and_a_name_that_tables_show() -> None:
    text = """\
define: {mine: {like: fusing}}
sweep:
  mine.epochs: [3, 4]
  variant:
    sgd: {fusing.optimizer.lr: 0.05, fusing.optimizer: {name: sgd}, mine.batch_size: 16}
    radam: {fusing: {optimizer: {name: radam}}}
"""
    _, found = points(text)
    assert [p.experiment for p in found] == ["x.3-sgd", "x.3-radam", "x.4-sgd", "x.4-radam"]
    optimizers = [p.table["fusing"].optimizer for p in found]
    assert [(one.name, one.lr) for one in optimizers] == [("sgd", 0.05), ("radam", 1e-3)] * 2
    assert [(p.table["mine"].epochs, p.table["mine"].batch_size) for p in found] == [
        (3, 16), (3, 128), (4, 16), (4, 128),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("sweep:\n  base.epochs: {a: 1}\n", 4, "sweep.base.epochs", "must be a list of values"),
        ("sweep:\n  mine: {a: {base.epoch: 1}}\n", 4, "base.epoch", "did you mean 'epochs'?"),
        ("sweep:\n  mine: {a: {base.epochs: 1}, b: 2}\n", 4, "sweep.mine", "is no key of the config"),
        ("sweep: [1]\n", 3, "sweep", "must be a mapping"),
        ("sweep: {}\n", 3, "sweep", "must be a mapping"),
        ("sweep:\n  model.name: cifar_resnet8\n", 4, "sweep.model.name", "must be a list"),
        ("sweep:\n  model.name: []\n", 4, "sweep.model.name", "must be a list"),
        ("sweep:\n  modle.name: [a]\n", 4, "sweep.modle.name", "did you mean 'model'?"),
        ("sweep:\n  seeds: [[0], [1]]\n", 4, "sweep.seeds", "is a list already"),
        ("sweep:\n  methods: [[base]]\n", 4, "sweep.methods", "is a list already"),
        ("sweep:\n  resources.workers: [1, 2]\n", 4, "sweep.resources.workers", "shared by all points"),
        ("sweep:\n  mine: [{plugins: [a.py]}]\n", 4, "sweep.mine", "shared by all points"),
        ("sweep:\n  base.epochs: [1, 1]\n", 4, "sweep.base.epochs", "given twice: 1"),
        ("sweep:\n  base.epochs: [1, 0]\n", 4, "base.epochs", "greater than or equal to 1"),
        ("sweep:\n  base.epoch: [1, 2]\n", 4, "base.epoch", "did you mean 'epochs'?"),
        ("sweep:\n  model.name: [cifar_resnet8, cifar_resnet9]\n", 4, "model.name", "6n+2"),
        ("sweep:\n  data.name: [cifar10, folder]\n", 4, "data", "needs root"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept(text: str, line: int, key: str, message: str) -> None:
    found = mistakes(text)
    assert [(where, what) for where, what, _ in found] == [(line, key)], found
    assert message in found[0][2]


def test_a_slip_in_the_lists_is_not_a_million_experiments() -> None:
    lists = ", ".join(f"{role}.epochs: {list(range(1, 40))}" for role in ("base", "expert", "vanilla"))
    ((line, key, message),) = mistakes(f"sweep: {{{lists}}}\n")
    assert (line, key) == (3, "sweep") and "59,319 points" in message


def test_a_sweep_without_a_name_is_told_so() -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse_points("seeds: [0]\nsweep: {protocol: [standard, paper]}\n", source="file.yaml")
    assert "experiment" in str(caught.value) and "None" not in str(caught.value)
