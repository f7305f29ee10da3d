"""What each built-in entry and each kind of stage gives, worked out anew: by key a version with its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fusiondistill import DEGRADATIONS, INFERENCE, LOSSES, MERGING, NETWORKS, SOURCES, build_model, degrade, load_images
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import as_degradation
from fusiondistill.inference import At as FittedOn
from fusiondistill.inference import Inference, Part, combined
from fusiondistill.losses import Outputs
from fusiondistill.merging import At, merge
from fusiondistill.models import ImageClassifier
from fusiondistill.plugins import _loaded as loaded_plugins
from fusiondistill.plugins import all_registries, load_plugins, read_plugins
from golden.material import CLASSES, picture, whole

__all__ = ["Found", "cases", "filled", "images", "numbers", "sha256", "toys"]

TOYS = Path(__file__).parent / "toys.py"


@dataclass(frozen=True)
class Found:
    """What a key gives.

    Attributes:
        version: what has to change when a result does.
        raised: what a person raises then, in words.
        exact: case -> digest of whole numbers, or of float64 ones that are computed element by element.
        close: case -> numbers that hold a convolution, a matrix product or an exponential.
    """

    version: str
    raised: str
    exact: Mapping[str, str] = field(default_factory=dict)
    close: Mapping[str, list[float]] = field(default_factory=dict)


def cases() -> dict[str, Callable[[], Found]]:
    """Key -> what works its results out."""
    from golden import stages

    makers: dict[str, tuple[Any, Callable[[str], Found]]] = {
        "degradations": (DEGRADATIONS, degradation),
        "merging": (MERGING, merging),
        "losses": (LOSSES, loss),
        "inference": (INFERENCE, inference),
    }
    found = {
        f"{folder}/{name}": lambda make=make, name=name: make(name)
        for folder, (registry, make) in makers.items()
        for name in registry.builtin
    }
    return {**found, "sources/digits": digits, "networks/cifar_resnet": cifar_resnet, **stages.cases()}


@contextmanager
def toys() -> Iterator[None]:
    """While the block runs, the toys are registered; plugins that others loaded stay."""
    load_plugins(read_plugins([str(TOYS)]))
    try:
        yield
    finally:
        loaded_plugins.pop(TOYS.name, None)
        for registry in all_registries().values():
            registry.forget(TOYS.name)


# What results are written as.


def sha256(*parts: Any) -> str:
    """The digest of tensors, with their types and shapes, or of plain values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def numbers(*tensors: torch.Tensor) -> list[float]:
    """Four numbers of each tensor: its mean, its mean magnitude, its first and its last value."""
    flat = [tensor.detach().double().flatten() for tensor in tensors]
    return [float(f"{x:.7g}") for t in flat for x in (t.mean(), t.abs().mean(), t[0], t[-1])]


# What they are made from.


def images(count: int = 6, height: int = 16, width: int = 16) -> torch.Tensor:
    """uint8 [count,3,H,W]."""
    made = [torch.from_numpy(picture(f"image {i}", i % CLASSES, height, width)) for i in range(count)]
    return torch.stack(made).permute(0, 3, 1, 2).contiguous()


def image_set(count: int = 20) -> ImageSet:
    """Images of 12x12 whose normalisation changes nothing."""
    names = [f"class {i}" for i in range(CLASSES)]
    return ImageSet(
        "golden", images(count, 12, 12), torch.arange(count) % CLASSES, names, statistics=((0.0,) * 3, (1.0,) * 3)
    )


def fractions(name: str, *shape: int) -> torch.Tensor:
    """float32 multiples of 1/64 in -2..2: sums of a few of them are exact in any order."""
    return torch.from_numpy((whole(name, *shape) - 128) / 64).float()


def filled(model: torch.nn.Module, name: str, whole_numbers: bool = False) -> torch.nn.Module:
    """A network with weights of a name, in eval mode; of its inputs' scale, or whole ones."""
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = fractions(f"{name} {key}", *tensor.shape)
        if whole_numbers:
            values = (values * 1.5).round()
            if tensor.ndim > 1:  # with a sum of 0: brightness alone decides nothing
                values = values * tensor[0].numel() - values.sum(1, keepdim=True)
        elif key.endswith("running_var"):
            values = 1 + values.abs()
        elif tensor.ndim > 1:
            values = values / tensor[0].numel() ** 0.5
        tensor.copy_(values)
    return model.eval()


@torch.no_grad()
def undecided(model: torch.nn.Module, seen: torch.Tensor) -> torch.nn.Module:
    """A network whose head is moved by whole numbers, so that no class wins on all images."""
    middle = model(seen).double().sort(0).values[len(seen) // 2]
    model.head.bias.sub_(middle.round())  # type: ignore[operator, union-attr]
    return model


# Entries.


def degradation(name: str) -> Found:
    """Two sizes of image at four levels, under both protocols."""
    entry = DEGRADATIONS[name]
    levels = [entry.levels[place * (len(entry.levels) - 1) // 3] for place in range(4)]
    exact = {}
    for protocol in ("standard", "paper"):
        for height, width in ((16, 16), (11, 13)):
            batch = images(3, height, width)
            asked = {"seed": 7, "indices": torch.arange(5, 8), "protocol": protocol}
            parts = [degrade(batch, name, level, **asked) for level in levels]
            exact[f"{protocol} {height}x{width}"] = sha256(*parts)
    return Found(entry.code, f"version of the degradation {name}", exact)


MERGED: Mapping[str, list[dict[str, Any]]] = {
    "linear": [{"weights": [1, 2, 5]}, {"weights": {"blur": 3, "jpeg": 1, "noise": 1}}],
    "ties": [{}, {"density": 0.7}],
    "task_arithmetic": [{}, {"scale": 0.5}, {"scale": [0.2, 0.4]}],
    "wise_ft": [{}, {"alpha": 0.25}],
    "lines": [{}],
    "dare": [{"drop": 0.75}],
    "fisher": [{}, {"labels": "own", "normalise": True}],
    "regmean": [{}, {"off_diagonal": 0.5}],
    "adamerging": [{"steps": 3, "batch": 4}],
    "linear_search": [{"trials": 5}],
}
"""The parameters with which merging methods are called; others with their defaults."""
INEXACT = {"iso_c"}
"""Those that hold a matrix product beside those that look at images."""


def merging(name: str) -> Found:
    """Three small networks, whose weights are multiples of 1/64, and their base."""
    entry = MERGING[name]
    with toys():
        base, *experts = (weights(which) for which in ("base", "expert 0", "expert 1", "expert 2"))
        labelled = [(fractions("batch", 12, 3, 12, 12), torch.arange(12) % CLASSES)]

        def network(state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
            model = build_model("golden_conv", CLASSES)
            model.load_state_dict(dict(state))
            return model.eval()

        at = At(
            base=base, names=("jpeg", "blur", "noise"), network=network, batches=lambda name: labelled,
            validation=lambda name: labelled, seed=3, device=torch.device("cpu"),
        )  # fmt: skip
        made = {json.dumps(p): merge(experts, name, at=at, **p) for p in MERGED.get(name, [{}])}
    raised = f"version of the merging method {name}"
    if entry.facts.get("needs", frozenset()) <= {"base"} and name not in INEXACT:
        return Found(entry.code, raised, {case: sha256(*sorted(s), *map(s.get, sorted(s))) for case, s in made.items()})
    return Found(entry.code, raised, close={case: numbers(*map(s.get, sorted(s))) for case, s in made.items()})


def weights(which: str) -> dict[str, torch.Tensor]:
    """A state dict of the small network; variances are positive, counters equal."""
    found = {}
    for key, like in build_model("golden_conv", CLASSES).state_dict().items():
        values = fractions(f"{which} {key}", *like.shape) if like.is_floating_point() else torch.full_like(like, 5)
        found[key] = values.abs() if key.endswith("running_var") else values
    return found


LOST: Mapping[str, list[dict[str, Any]]] = {
    "kd": [{}, {"temperature": 2.5}],
    "dkd": [{}, {"beta": 2.0, "temperature": 2.5}],
    "dist": [{}, {"beta": 2.0, "temperature": 2.5}],
    "attention": [{}, {"power": 3.0}],
}
"""The parameters with which loss terms are called; others with their defaults."""


def loss(name: str) -> Found:
    """The term of six images in five classes, or of three under two degradations, and its gradients."""
    entry, close = LOSSES[name], {}
    needs = entry.facts.get("needs", "nothing")
    for given in LOST.get(name, [{}]):
        student = [fractions("logits", 6, 5).requires_grad_(), fractions("features", 6, 4, 3, 3).requires_grad_()]
        teacher = Outputs(fractions("teacher's logits", 6, 5), fractions("teacher's features", 6, 4, 3, 3))
        value = entry.function(
            Outputs(*student, views=2),
            None if needs == "nothing" else teacher,
            torch.arange(6) % 5,
            **entry.resolve(given),
        )
        gradients = torch.autograd.grad(value, student, allow_unused=True)
        close[json.dumps(given)] = numbers(value, *(g for g in gradients if g is not None))
    return Found(entry.code, f"version of the loss term {name}", close=close)


def inference(name: str) -> Found:
    """What three small networks say together of six images; one alone where the way is told the degradation."""
    entry = INFERENCE[name]
    with toys(), torch.no_grad():
        roles = [f"expert-{d}" for d in ("jpeg", "blur", "noise")][: 1 if entry.told or entry.one else 3]
        networks = {role: filled(build_model("golden_conv", CLASSES), role) for role in roles}
        classes = [f"class {i}" for i in range(CLASSES)]
        made: dict[str, torch.nn.Module] = {}
        for role, one in networks.items():
            one.head.weight.mul_(16)  # type: ignore[operator, union-attr]
            made[role] = ImageClassifier(
                undecided(one, (images(9, 12, 12).float() - 110) / 60), (110,) * 3, (60,) * 3, classes
            ).eval()
        part = fitted(entry, image_set(12)) if entry.fits else None
        said = combined(name, made, part=part)(images(6, 12, 12))
    return Found(entry.code, f"version of the way of inference {name}", close={"6 images": numbers(*said)})


def fitted(entry: Inference, seen: ImageSet) -> Part:
    """A part after its first step, which rounding moves little."""
    at = FittedOn(
        seen, None, [as_degradation(one) for one in ("jpeg", "blur", "noise")], 3, "standard", torch.device("cpu")
    )
    assert entry.fits is not None
    with torch.enable_grad():
        return entry.fits(at, **{**entry.checked({}), "views": 1, "epochs": 1})


def digits() -> Found:
    """The first images of both splits, with their labels; the fingerprint does not count."""
    exact = {}
    for split in ("train", "test"):
        found = load_images("digits", split)
        pixels, labels = found.gather(torch.arange(8))
        exact[split] = sha256(pixels, labels, list(found.classes), len(found), list(found.mean), list(found.std))
    return Found(SOURCES["digits"].code, "version of the data source digits", exact)


@torch.no_grad()
def cifar_resnet() -> Found:
    """Logits and features of a small one."""
    model = filled(build_model("cifar_resnet8", CLASSES), "resnet")
    said = model((images(4).float() - 120) / 60, features=True)
    names = {"names": sha256(sorted(model.state_dict()))}
    return Found(NETWORKS.code_of("cifar_resnet8"), "version of the network cifar_resnet", names, {"8": numbers(*said)})
