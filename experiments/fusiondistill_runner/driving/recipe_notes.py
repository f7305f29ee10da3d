"""What a user should know of the recipe that a plan's trainings have their defaults from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fusiondistill.recipes import RECIPES, recipe_of_data
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import TrainSpec

__all__ = ["recipe_notes"]

_PAPER, _CIFAR100 = (RECIPES[name]["clean"]["optimizer"]["weight_decay"] for name in ("paper", "paper-cifar100"))
_SETS = {100: "CIFAR-100", 200: "Tiny ImageNet"}
_SIDES = (32, 64)


def recipe_notes(plan: Plan, classes: int, size: tuple[int, int], own: Mapping[str, str]) -> Iterator[str]:
    """Which recipe was taken and why; and the line to write where the images may be those of another recipe.

    Args:
        plan: one experiment.
        own: method -> the recipe that it names itself.
        classes: how many classes its images have.
        size: (height, width) of its images in pixels.
    """
    trainings = [stage.spec for stage in plan.stages if isinstance(stage.spec, TrainSpec)]
    if not trainings:
        return
    given, data = plan.config.recipe, plan.config.data.name
    chosen = given or recipe_of_data(data)
    why = "as the config says" if given else "the default" if chosen == "paper" else f"since data.name is {data}"
    rows = plan.config.model_copy(update={"search": ()}).content()
    needed = [name for name in own if name in {**rows, **rows.get("define", {})}]
    apart = "".join(f"; of {name} {own[name]}" for name in needed)
    yield f"recipe: {chosen}, {why}{apart}"
    precision = plan.config.precision
    if precision and plan.config.protocol == "paper" and {one.recipe.precision for one in trainings} != {precision}:
        yield f"precision: {precision} is not taken: protocol: paper trains in fp32, unless a method says otherwise"
    cleanly = {spec.recipe.optimizer.weight_decay for spec in trainings if not spec.degradations}
    if not given and chosen == "paper" and _PAPER in cleanly and classes in _SETS and set(size) <= set(_SIDES):
        yield (
            f"{classes} classes at {size[1]}x{size[0]}: if this is {_SETS[classes]}, its base has a weight decay of "
            f"{_CIFAR100:g} in the paper, not {_PAPER:g}: write recipe: paper-cifar100 (or recipe: paper, to keep it)"
        )
