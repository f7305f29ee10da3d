"""``fusiondistill init``: from a folder of photos and a time to a config whose run takes about that time."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fusiondistill import NAME, config_file
from fusiondistill.counting import counted
from fusiondistill.data import load_images
from fusiondistill.data.inspection import Facts
from fusiondistill.data.reading import cores
from fusiondistill.methods import METHODS, SEARCHED
from fusiondistill.networks import NETWORKS
from fusiondistill.networks._pretrained import Pretrained
from fusiondistill_runner.driving.local import device_of
from fusiondistill_runner.driving.prepared import Prepared, prepare_points
from fusiondistill_runner.forecasting.budgets import Shortening, epochs_of
from fusiondistill_runner.forecasting.drafts import Draft
from fusiondistill_runner.forecasting.duration import duration_line
from fusiondistill_runner.forecasting.forecast import clock
from fusiondistill_runner.forecasting.speeds import SECONDS, Speeds, machine_name
from fusiondistill_runner.forecasting.wishes import Wish
from fusiondistill_runner.planning.specs import EvaluateSpec, TrainSpec
from fusiondistill_runner.views.data_report import check_data

__all__ = ["first_config"]

Say = Callable[[str], None]

JUDGING = 0.15
"""The part of a budget that evaluations may take before levels are left out."""
ENOUGH = 0.2
"""The part of the recipe's epochs below which a smaller network is taken, or smaller images."""
HOPELESS = 1.5
"""So many times the budget, by a first estimate, and a draft is not looked at any further."""
RICHER: tuple[tuple[float, dict[str, Any]], ...] = ((0.4, {"methods": ()}), (0.8, {"methods": (), "searched": True}))
"""What else is done if this part of the recipe's epochs fits into the budget nevertheless."""
STEPS = 20
"""An epoch has at least so many steps, if batches of 16 images allow it."""
UNEVEN = 3.0
"""Classes are drawn evenly where the largest has so many times the images of the smallest."""
SMALL, LARGE = 40, 64
"""Sides in pixels: up to the first a CIFAR ResNet suits; larger images than the second are made smaller."""
VALIDATION = 0.1
LEFT = 0.8
"""The part of a budget below which a run leaves much of it."""
MOST_CORES = 8


def first_config(wish: Wish, say: Say, *, seconds: float = SECONDS) -> Path:
    """Look at the images, measure the machine, and write a config that fits a budget.

    Args:
        wish: what the user asks for.
        say: told what is being done, a line each.
        seconds: to measure the steps of one kind of training.

    Returns:
        the file that was written.

    Raises:
        ValueError: the budget is no time or too small, the file exists, a name is unknown.
        ConfigError, DataError, CheckpointError: as ``fusiondistill plan`` raises them for the same images.
    """
    wish.check()
    say(f"{wish.path}: looking at its images")
    facts = check_data(wish.path, ())
    for text in facts.wrong:
        say(f"wrong: {text}; `{shlex.join([NAME, 'data', 'check', wish.path])}` says more")
    fit = _best(wish, list(_drafts(wish, facts)), say, seconds)
    draft = replace(
        fit.draft,
        epochs=fit.methods,
        search_epochs=epochs_of(fit.draft.search_epochs, fit.part),
        why=_reasons(fit, wish, facts),
    )
    shortened = Shortening(_planned(draft, wish), fit.plan.speeds, wish.runs_locally)
    wish.check_file()  # it may have come meanwhile
    wish.file.write_text(draft.text(_header(shortened, wish, facts)), encoding="utf-8")
    wall = shortened.wall(shortened.longest)
    if fit.part == 1 and wall < LEFT * wish.seconds:
        say(f"the recipe's own epochs need no more than {clock(wall)}: with seeds: [0, 1, 2] about {clock(3 * wall)}")
    say(f"written: {wish.file}, for a run of about {clock(wall)}: {wish.run}")
    return wish.file


@dataclass(frozen=True)
class _Fit:
    """A draft, its plan with the recipe's epochs, and how many of them the longest training may have."""

    draft: Draft
    plan: Shortening
    epochs: int

    @property
    def part(self) -> float:
        """The part of the recipe's epochs."""
        return self.epochs / self.plan.longest

    @property
    def recipe(self) -> dict[str, int]:
        """Trained method -> the recipe's epochs."""
        table: Any = self.plan.prepared.config.table
        return {name: table[name].epochs for name in self.draft.trained}

    @property
    def methods(self) -> dict[str, int]:
        """Trained method -> its epochs."""
        return {name: epochs_of(epochs, self.part) for name, epochs in self.recipe.items()}


def _drafts(wish: Wish, facts: Facts) -> Iterator[Draft]:
    """What could be trained, the largest first: the network, and the size of the images."""
    sides = sorted(min(size) for size, count in facts.sizes.items() for _ in range(count))
    middle = sides[len(sides) // 2]
    given = facts.keys.get("size") or (None if middle <= LARGE else LARGE)
    side = given or middle
    smaller = 32 if side > SMALL else given
    sized = [(smaller, "cifar_resnet20"), (smaller, "cifar_resnet8")]
    if wish.model:
        sized = [(given, wish.model), *([(smaller, wish.model)] if smaller != given else [])]
    elif side > SMALL:
        sized.insert(0, (given, "resnet18"))
    keys = {key: value for key, value in facts.keys.items() if key not in ("size", "test")}
    own = {} if "validation" in facts.splits else {"validation": VALIDATION}
    cut = {"test": facts.keys["test"]} if "test" in facts.keys else {}
    for size, model in sized:
        weights = _published(model)
        draft = Draft(
            experiment=wish.experiment,
            data={**keys, **({"size": size, "fit": "crop"} if size else {}), **cut, **own},
            model=model,
            pretrained=weights is not None and weights.at_hand(),
            degradations=wish.degradations,
            balanced=_unevenness(facts) >= UNEVEN,
            cores=_cores(wish),
        )
        yield replace(draft, batch_size=_batch_size(draft, own.get("validation", 0.0)))


def _batch_size(draft: Draft, held_out: float) -> int:
    """A batch of which an epoch has enough, and the last of which is not a single image."""
    data = config_file.parse(draft.text()).data
    images = load_images(data.name, "train", data.place, **data.loading)
    count = len(images.holdout(held_out, 0)[0]) if held_out else len(images)
    size = next((size for size in (128, 64, 32) if count / size >= STEPS), 16)
    return size if count % size != 1 else size - 1


def _cores(wish: Wish) -> int:
    """How many cores a worker holds: without a GPU all with ``--local``, else a part for each of four experts."""
    if torch.cuda.is_available():
        return 1
    return max(1, cores() // 4) if not wish.runs_locally or cores() < 4 else min(cores(), MOST_CORES)


def _published(model: str) -> Pretrained | None:
    """The published weights of a network; None: there are none."""
    try:
        return NETWORKS.provider(model).pretrained(model)
    except ValueError:
        return None


def _unevenness(facts: Facts) -> float:
    """The training images of the largest class over those of the smallest."""
    counts = [count for count in facts.splits["train"].classes.values() if count]
    return max(counts) / min(counts)


def _planned(draft: Draft, wish: Wish) -> Prepared:
    points = config_file.parse_points(draft.text(), source=str(wish.file))
    return prepare_points(*points, local=wish.runs_locally)


def _best(wish: Wish, drafts: list[Draft], say: Say, seconds: float) -> _Fit:
    """The largest draft that the budget lets train for long enough, with all that it has time for.

    Raises:
        ValueError: the smallest cannot even be trained for an epoch of everything.
    """
    tried = partial(_tried, wish=wish, say=say, seconds=seconds)
    *larger, smallest = drafts
    found = (tried(draft, ENOUGH) for draft in larger)
    fit = next((one for one in found if one is not None and one.part >= ENOUGH), None) or tried(smallest, 0.0)
    assert fit is not None
    if not fit.epochs:
        raise ValueError(
            f"a budget of {wish.budget} is too small: one epoch of everything ({fit.draft.model}, "
            f"evaluation.every: {fit.draft.every}) takes about {clock(fit.plan.wall(1))} on this machine. "
            "Give a larger --budget. Nothing was written"
        )
    for least, more in RICHER:
        draft = replace(fit.draft, search_epochs=max(1, fit.recipe[SEARCHED] // 3))
        richer = tried(replace(draft, **more), least) if fit.part >= least else None
        if richer is None or richer.part < least:
            break
        fit = richer
    return fit


def _tried(draft: Draft, least: float, wish: Wish, say: Say, seconds: float) -> _Fit | None:
    """A draft as it fits; None where a glance shows that this part of the recipe's epochs does not."""
    prepared = _planned(draft, wish)
    speeds = Speeds(prepared.context, device_of(prepared.config))
    whole = Shortening(prepared, speeds, wish.runs_locally)
    measuring = partial(speeds.measure, say=lambda text: say(f"measuring {text}"), seconds=seconds)
    first = next(stage for stage in prepared.plan.stages if stage.kind == TrainSpec.kind)
    measuring([first])
    work = sum(stage.work for stage in whole.stages if stage.kind == TrainSpec.kind)
    if least * work / first.work * (speeds.seconds(first) or 0.0) > HOPELESS * wish.seconds * whole.workers:
        return None
    measuring(whole.stages)
    every = _levels_left_out(whole, draft.every, wish.seconds)
    if every != draft.every:
        draft = replace(draft, every=every)
        whole = Shortening(_planned(draft, wish), speeds, wish.runs_locally)
    return _Fit(draft, whole, whole.most(wish.seconds))


def _levels_left_out(plan: Shortening, every: int, budget: float) -> int:
    """Which every-k-th level to evaluate, so that evaluations take their part of the budget and no more."""
    seconds = plan.seconds(1)
    judging = sum(seconds[stage.digest] for stage in plan.stages if stage.kind == EvaluateSpec.kind) * every
    room = JUDGING * budget * plan.workers
    return next((k for k in (1, 2, 5, 10) if judging / k <= room), 25)


def _reasons(fit: _Fit, wish: Wish, facts: Facts) -> dict[str, str]:
    """Key of the config -> why it says what it says."""
    draft, sides = fit.draft, sorted({side for size in facts.sizes for side in size})
    found = {
        "seeds": "one run; [0, 1, 2] takes three times as long, and tells an effect from chance",
        "data.size": f"pixels; the images have sides of {sides[0]:,} to {sides[-1]:,}; larger ones take longer",
        "data.fit": "cut out the middle; pad adds black bars, stretch changes the shape",
        "data.validation": "of the training images: on them the best epoch of each network is chosen",
        "model": _why_model(draft, wish),
        "degradations": "as you said",
        "sampling": f"the largest class has {_unevenness(facts):.1f} times the images of the smallest; balanced draws "
        "as many of each",
        "methods": "some of the paper's rows; leave this line out for all of them",
        "search": "finds the weights of the loss on the validation images",
        "evaluation": _why_levels(draft.every),
        "resources": f"of the {cores()} cores: "
        + ("--local has one worker" if wish.runs_locally else "four experts train side by side"),
    }
    for name, epochs in fit.recipe.items():
        told = "the recipe's epochs" if fit.part == 1 else f"{100 * fit.part:.2g} % of the recipe's {epochs} epochs"
        found[name] = f"{told}; {METHODS[name]['description'].partition(';')[0]}"
    return found


def _why_model(draft: Draft, wish: Wish) -> str:
    why = "as you said" if wish.model else "a small network for small images"
    if draft.model == "resnet18" and not wish.model:
        why = "for images of this size"
    if draft.pretrained:
        return f"{why}; its published weights are in the cache of this machine"
    if _published(draft.model) is None:
        return why
    return f"{why}; published weights are not in the cache of this machine: weights: pretrained would fetch them"


def _why_levels(every: int) -> str:
    told = {1: "every level is measured", 2: "every other level is measured, the rest interpolated"}
    return told.get(every, f"every {every}th level is measured, the rest interpolated")


def _header(plan: Shortening, wish: Wish, facts: Facts) -> list[str]:
    """The command, what it takes, and where that was measured."""
    images, classes = sum(one.images for one in facts.splits.values()), len(facts.splits["train"].classes)
    where = f"{machine_name(plan.speeds.device)}, measured on {plan.speeds.since}"
    found = [
        f"{counted(images, 'image')} of {counted(classes, 'class')}; more about them: "
        + shlex.join([NAME, "data", "check", wish.path]),
        f"Written by: {wish.command}",
        f"{duration_line(plan.duration(plan.longest), where)}.",
    ]
    return [wish.run, "", *(line for text in found for line in textwrap.wrap(text, 116, break_on_hyphens=False))]
