"""Plans whose trainings are shortened, so that a run takes a given time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.forecasting.duration import Duration, workers_here
from fusiondistill_runner.forecasting.speeds import Speeds
from fusiondistill_runner.planning.specs import SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage

__all__ = ["Shortening", "epochs_of", "shortened"]


@dataclass(frozen=True)
class Shortening:
    """A plan whose trainings can all be shortened by the same factor, so that a run of it fits into a time.

    Attributes:
        prepared: the plan, with the epochs of its recipe.
        speeds: those of all its stages are measured.
        local: whether the run is one with ``--local``.
    """

    prepared: Prepared
    speeds: Speeds
    local: bool

    @property
    def stages(self) -> Sequence[Stage]:
        """All stages."""
        return self.prepared.plan.stages

    @property
    def longest(self) -> int:
        """The epochs of the longest training."""
        return max(spec.training.recipe.epochs for spec in self._specs if spec.training)

    @property
    def _specs(self) -> list[TrainSpec | SearchSpec]:
        return [stage.spec for stage in self.stages if isinstance(stage.spec, TrainSpec | SearchSpec)]

    def seconds(self, epochs: int) -> dict[str, float]:
        """Digest -> seconds of each stage, where the longest training has so many epochs."""
        found = {}
        for stage in self.stages:
            seconds = self.speeds.seconds(shortened(stage, epochs / self.longest))
            assert seconds is not None  # measured before
            found[stage.digest] = seconds
        return found

    @property
    def workers(self) -> int:
        """How many of them work side by side."""
        return 1 if self.local else max(1, workers_here(self.prepared.config.resources))

    def duration(self, epochs: int) -> Duration:
        """Of a whole run."""
        return Duration.of(self.stages, self.seconds(epochs), self.prepared.config.resources)

    def wall(self, epochs: int) -> float:
        """Seconds of the run that is meant."""
        found = self.duration(epochs)
        return found.local if self.local or found.ray is None else found.ray

    def most(self, budget: float) -> int:
        """The epochs of the longest training with which a run takes at most ``budget`` seconds; 0: it never does."""
        low, high = 0, self.longest
        while low < high:
            middle = (low + high + 1) // 2
            if self.wall(middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return low


def shortened(stage: Stage, part: float) -> Stage:
    """A training or a search with this part of its epochs, at least one; any other stage as it is."""
    spec = stage.spec
    if isinstance(spec, TrainSpec):
        return Stage(stage.name, stage.seed, _shorter(spec, part), stage.inputs)
    if isinstance(spec, SearchSpec):
        spec = spec.model_copy(update={"train": _shorter(spec.train, part)})
        return Stage(stage.name, stage.seed, spec, stage.inputs)
    return stage


def _shorter(spec: TrainSpec, part: float) -> TrainSpec:
    recipe = spec.recipe.model_copy(update={"epochs": epochs_of(spec.recipe.epochs, part)})
    span = None if spec.span is None else (0, epochs_of(spec.epochs, part))
    return spec.model_copy(update={"recipe": recipe, "span": span})


def epochs_of(epochs: int, part: float) -> int:
    """This part of so many epochs, at least one."""
    return max(1, round(epochs * part))
