"""One training as a function of values: :func:`fit` from Python; :class:`Training` is below it and the train stage."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from fusiondistill import evaluation
from fusiondistill.balancing import class_weights_of
from fusiondistill.batches import Pipeline
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.devices import best_device
from fusiondistill.layout import agreed, channels_last
from fusiondistill.memory import kept_memory
from fusiondistill.methods import TAUGHT_BY
from fusiondistill.models import ImageClassifier
from fusiondistill.models.build import build
from fusiondistill.models.network import FeatureNetwork
from fusiondistill.progress import Progress, batch_mean_accuracy
from fusiondistill.protocols import PROTOCOLS
from fusiondistill.randomness import key
from fusiondistill.recalibration import recalibrate_batchnorm
from fusiondistill.recipe import Recipe, merged
from fusiondistill.recipes import RANDOM, RECIPES, shape_of
from fusiondistill.registry import close_to
from fusiondistill.room import check_room
from fusiondistill.state_dicts import state_difference
from fusiondistill.training import train
from fusiondistill.weight_average import first_inputs

__all__ = ["Fit", "Training", "fit", "random_network"]

StateDict = Mapping[str, torch.Tensor]
Weights = nn.Module | StateDict
CPU = torch.device("cpu")
STATISTICS = 512
"""Training images, at least, of each degradation by which BatchNorm normalises where it is judged apart."""


@dataclass(frozen=True)
class Training:
    """All that a training is a function of, besides its networks.

    Attributes:
        recipe: epochs, optimiser, schedule, loss, augmentation.
        images: the training images.
        held_out: images that a network is judged on after each epoch; None: the last epoch is kept.
        degradations: names, or with their own levels and id; empty for clean training.
        seed: of order, augmentation, levels and noise.
        protocol: of degradations and validation, ``standard`` or ``paper``.
        flip: random horizontal flips; None: what the data set allows.
        device: where the networks are trained.
        rank, world_size: this worker's place among those that share every batch.
        sync_batchnorm: see :func:`fusiondistill.wrapping.synchronised`.
        limit: bytes that the images may take in memory, see :func:`fusiondistill.feeding.fed`; changes no result.
        share: of a GPU that is this process' own, where several share it; for the check that a step has room.
        capture, taught_by, span: see :func:`fusiondistill.training.train`.
        together: the names of the teachers that teach each image together, where ``taught_by`` says so.
    """

    recipe: Recipe
    images: ImageSet
    held_out: ImageSet | None = None
    degradations: tuple[str | DegradationConfig, ...] = ()
    seed: int = 0
    protocol: str = "standard"
    flip: bool | None = None
    device: torch.device = CPU
    rank: int = 0
    world_size: int = 1
    sync_batchnorm: bool = False
    limit: int | None = None
    capture: bool = True
    share: float = 1.0
    taught_by: str = "degradation"
    together: tuple[str, ...] = ()
    span: tuple[int, int] | None = None

    @property
    def taught(self) -> tuple[str, ...]:
        """The names of the teachers that there must be; empty where the loss needs none.

        By degradation it is each degradation's id, or ``clean``.
        """
        ids = self.together or tuple(as_degradation(one).id for one in self.degradations)
        return (ids or ("clean",)) if self.recipe.loss.needs.teacher else ()

    def run(
        self,
        network: nn.Module,
        teachers: Sequence[nn.Module] = (),
        *,
        start: Progress | None = None,
        on_epoch: Callable[[Progress], None] | None = None,
        say: Callable[[str], None] = warnings.warn,
    ) -> Progress:
        """Train a network in place; see :func:`fusiondistill.training.train`.

        Args:
            network: holds its initial weights.
            teachers: for each of :attr:`taught`, in that order.
            start: where an earlier run stopped.
            on_epoch: called after each epoch, on rank 0; training ends with what it raises.
            say: told what does not go as the recipe asks.

        Raises:
            BatchTooLarge: a step does not fit the device's memory.
        """
        self._check_room(network, teachers)
        here = self.laid_out(network, start)
        with kept_memory(self.device):
            return train(
                network,
                here.recipe,
                here.pipeline(),
                seed=self.seed,
                teachers=teachers,
                taught_by=self.taught_by,
                span=self.span,
                validation=None if self.held_out is None else here.validate,
                start=start,
                on_epoch=on_epoch,
                sync_batchnorm=self.sync_batchnorm,
                capture=self.capture,
                say=say,
            )

    def _check_room(self, network: nn.Module, teachers: Sequence[nn.Module]) -> None:
        own = -(-self.recipe.batch_size // self.world_size)
        size, parts = torch.Size((3, *self.images.size)), max(1, len(self.degradations))
        batch, precision = min(own, len(self.images)), self.recipe.precision
        check_room(network, size, batch, parts, self.device, precision, self.world_size, teachers, self.share)

    def laid_out(self, network: nn.Module, start: Progress | None = None) -> Training:
        """The training with the memory layout decided: the one that it began in, or the network's on this device.

        A training that was stored before layouts were noted began in the recipe's, or in NCHW.
        """
        last = channels_last(self.recipe.channels_last, network, self.device)
        if start is not None:
            last = self.recipe.channels_last is True if start.channels_last is None else start.channels_last
        last = agreed(last, self.device, self.world_size)
        return replace(self, recipe=self.recipe.model_copy(update={"channels_last": last}))

    def pipeline(self) -> Pipeline:
        """The batches that it trains on."""
        recipe = self.recipe
        return Pipeline(
            images=self.images,
            degradations=self.degradations,
            seed=self.seed,
            batch_size=recipe.batch_size,
            flip=self.images.flip if self.flip is None else self.flip,
            **recipe.augmentation.of(self.images.size),
            pairing=recipe.pairing,
            coupled=recipe.coupled_draws,
            teacher_view=recipe.teacher_view if self.taught else None,
            protocol=self.protocol,
            device=self.device,
            rank=self.rank,
            world_size=self.world_size,
            channels_last=recipe.channels_last is True,
            class_weights=class_weights_of(recipe.class_weights, self.images.labels, self.images.classes),
            balanced=recipe.sampling == "balanced",
            mixup=recipe.mixup,
            limit=self.limit,
        )

    def validate(self, model: nn.Module, epoch: int) -> Mapping[str, float | Fraction]:
        """Accuracy (fraction) on the held-out images under each degradation.

        With ``batchnorm: apart`` the network is judged as it will answer, with statistics of each degradation.
        """
        assert self.held_out is not None
        apart = map(as_degradation, self.degradations if self.recipe.batchnorm == "apart" else ())
        assumed = PROTOCOLS[self.protocol]
        right = evaluation.validate(
            model,
            self.held_out,
            self.degradations,
            seed=self.seed,
            device=self.device,
            protocol=self.protocol,
            channels_last=self.recipe.channels_last is True,
            epoch=epoch if assumed.redrawn else None,
            coupled=self.recipe.coupled_draws,
            apart={one.id: self._with_statistics(model, one, epoch) for one in apart},
        )
        if assumed.score_batch:
            return {name: batch_mean_accuracy(values, assumed.score_batch) for name, values in right.items()}
        return {name: float(values.double().mean()) for name, values in right.items()}

    def _with_statistics(self, model: nn.Module, degradation: DegradationConfig, epoch: int) -> nn.Module:
        """A copy whose BatchNorm has the statistics of some training images under a degradation."""
        pipeline = replace(self.pipeline(), degradations=(degradation,), teacher_view=None, rank=0, world_size=1)
        steps = -(-STATISTICS // pipeline.batch_size)
        return recalibrate_batchnorm(copy.deepcopy(model), first_inputs(pipeline, epoch, steps))


def random_network(
    name: str, classes: int, seed: int, feature_layer: str | None = None, parameters: Mapping[str, Any] | None = None
) -> FeatureNetwork:
    """A network by name with the initial weights that a run of this seed has; sets torch's generator."""
    torch.manual_seed(key(seed, "initial weights") & (2**63 - 1))
    return build(name, classes, feature_layer, parameters or {})


@dataclass(frozen=True)
class Fit:
    """The result of a training.

    Attributes:
        model: the network of the kept epoch with its normalisation, in eval mode, on the device of the training.
        rows: a row of metrics for each epoch; accuracies are fractions, ``seconds`` wall time.
        best_epoch: which epoch was kept, from 1.
    """

    model: ImageClassifier
    rows: list[dict[str, float]]
    best_epoch: int


def fit(
    recipe: Recipe | Mapping[str, Any],
    images: ImageSet,
    *,
    model: str = "cifar_resnet56",
    start: Weights | None = None,
    degradations: Sequence[str | Mapping[str, Any] | DegradationConfig] = (),
    teachers: Mapping[str, Weights] | Weights | None = None,
    taught_by: str = "degradation",
    validation: ImageSet | float | None = 0.1,
    seed: int = 0,
    device: str | torch.device | None = None,
    protocol: str = "standard",
    flip: bool | None = None,
    capture: bool = True,
    on_epoch: Callable[[Progress], None] | None = None,
) -> Fit:
    """Train one network: a row of the table, without Ray, a store or a config.

    The same settings give the weights of the train stage, bit for bit, on the same kind of device with the same
    number of threads (``torch.set_num_threads``; a stage has one thread unless the config says otherwise).

    Args:
        recipe: a whole recipe, or a mapping that is laid over the paper's recipe for such a training:
            ``{"epochs": 5, "optimizer": {"lr": 0.05}, "loss": {"kd": 0.5}}``, or over another one:
            ``{"recipe": "fast", "epochs": 5}``. It is the same for every data set; the paper trains the base of
            CIFAR-100 and Tiny ImageNet with ``{"recipe": "paper-cifar100"}``.
        images: training images.
        model: name of the network, where neither ``start`` nor a teacher is needed to tell it.
        start: initial weights: a state dict of ``model``, or a network or classifier, which is copied; None: random.
        degradations: names, or ``{"name": "blur", "as": "light", "levels": "0..10"}`` as in a config; a batch holds
            images under each of them. Empty: clean images.
        teachers: a network, classifier or state dict for each degradation's id (``clean`` where there is none), or one
            for all; needed where a term of the loss needs teachers.
        taught_by: ``degradation``; or ``mean`` or ``confidence``, where all of ``teachers``, which then is a mapping
            with any names, teach each image together, see :func:`fusiondistill.teaching.joined`.
        validation: a fraction of ``images`` that is held out, or other images; the epoch with the best mean accuracy
            on them is kept. None or 0: the last epoch.
        seed: of initial weights, held-out images, order, augmentation, levels and noise.
        device: where to train; None: a GPU if there is one.
        protocol: ``standard`` or ``paper``.
        flip: random horizontal flips; None: what the data set allows.
        capture: on a GPU: each step as one CUDA graph, where that can be done and pays. Weights differ by rounding.
        on_epoch: called with the progress after each epoch; what it raises ends the training.

    Raises:
        BatchTooLarge: a step does not fit the device's memory.
        ValueError: an unknown name, weights that do not fit, teachers that are missing or not used, a recipe that is
            not admitted.
        NonFiniteLoss: the loss became NaN or infinite.

    Example:
        >>> fitted = fit({"epochs": 1}, load_images("digits", "train").take(100), model="cifar_resnet8")
        >>> len(fitted.rows), fitted.model.classes[:2]
        (1, ('0', '1'))
    """
    together = _together(teachers, taught_by)
    place = torch.device(device or best_device())
    names = tuple(as_degradation(one) for one in degradations)
    whole = _recipe(recipe, names, start, teachers, protocol)
    held_out = validation if isinstance(validation, ImageSet) else None
    if not isinstance(validation, ImageSet) and validation:
        images, held_out = images.holdout(validation, seed)
    training = Training(
        whole, images, held_out, names, seed, protocol, flip, place,
        capture=capture, taught_by=taught_by, together=together,
    )  # fmt: skip
    with torch.random.fork_rng([place] if place.type == "cuda" else []):
        network = _network(start, model, images, seed)
        taught = [_network(one, model, images, seed) for one in _teachers(teachers, training.taught)]
        progress = training.run(network, taught, on_epoch=on_epoch)
    network.load_state_dict(progress.best)
    classifier = ImageClassifier(network, images.mean, images.std, images.classes).to(place).eval()
    return Fit(classifier, progress.rows, progress.best_epoch)


def _recipe(
    given: Recipe | Mapping[str, Any],
    degradations: tuple[DegradationConfig, ...],
    start: object,
    teachers: object,
    protocol: str,
) -> Recipe:
    """The recipe, where it is a mapping laid over the defaults for its shape."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    if isinstance(given, Recipe):
        return given
    train_on = "clean" if not degradations else "each" if len(degradations) == 1 else "all"
    raw = {"start": RANDOM if start is None else "", "train_on": train_on, "teachers": teachers is not None}
    shape, assumed = shape_of(raw, lambda name: False), PROTOCOLS[protocol]
    own = dict(given)
    name = own.pop("recipe", "paper")
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{close_to(str(name), tuple(RECIPES))}")
    defaults = {**RECIPES[name][shape], **assumed.recipe, **assumed.shapes.get(shape, {})}
    return Recipe.model_validate(merged(defaults, own))


def _network(weights: Weights | None, model: str, images: ImageSet, seed: int) -> FeatureNetwork:
    """A new network with these weights, or with random ones."""
    if isinstance(weights, nn.Module):
        found = copy.deepcopy(weights.network if isinstance(weights, ImageClassifier) else weights)
        assert isinstance(found, nn.Module)
        return found  # type: ignore[return-value]
    network = random_network(model, len(images.classes), seed)
    if weights is not None:
        if difference := state_difference(network.state_dict(), weights):
            raise ValueError(f"the weights do not fit {model}: {difference}")
        network.load_state_dict(dict(weights))
    return network


def _together(given: object, taught_by: str) -> tuple[str, ...]:
    """The names of the teachers that teach each image together."""
    if taught_by not in TAUGHT_BY:
        raise ValueError(f"taught_by is one of {', '.join(TAUGHT_BY)}, not {taught_by!r}")
    if taught_by == "degradation":
        return ()
    named = isinstance(given, Mapping) and not all(isinstance(one, torch.Tensor) for one in given.values())
    if not isinstance(given, Mapping) or not named or len(given) < 2:
        raise ValueError(f"taught_by {taught_by!r} takes a mapping of two or more teachers")
    return tuple(map(str, given))


def _teachers(given: Mapping[str, Weights] | Weights | None, taught: tuple[str, ...]) -> list[Weights]:
    """The teacher of each of ``taught``."""
    if given is None or not taught:
        if taught:
            raise ValueError(f"the loss needs teachers: give one for {', '.join(taught)}, or one for all")
        return []
    if isinstance(given, nn.Module):
        return [given] * len(taught)
    if all(isinstance(value, torch.Tensor) for value in given.values()):
        return [given] * len(taught)  # type: ignore[list-item]
    if missing := [name for name in taught if name not in given]:
        raise ValueError(f"the loss needs a teacher for {', '.join(missing)}; there are {', '.join(given)}")
    return [given[name] for name in taught]  # type: ignore[misc]
