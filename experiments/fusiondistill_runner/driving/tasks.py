"""What the scheduling rules see of a stage: its key, kind, needs and priority, and how many workers it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from fusiondistill_runner.planning.stage import Stage, priorities

__all__ = ["StageTask", "Task", "has_own_workers", "tasks_of"]


class Task(Protocol):
    """What the scheduling rules ask of a unit of work."""

    @property
    def key(self) -> str:
        """Names the task; unique."""

    @property
    def label(self) -> str:
        """A short name for the task's own worker; unique."""

    @property
    def kind(self) -> str:
        """train, fuse, search, evaluate or import."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the tasks that must be done before."""

    @property
    def priority(self) -> float:
        """Of two ready tasks the one with the higher priority goes first."""

    @property
    def workers(self) -> int:
        """How many data-parallel workers a training takes."""

    @property
    def trials(self) -> int:
        """How many candidates a search has; 1 for other tasks."""


def has_own_workers(task: Task) -> bool:
    """Whether workers are started for this task alone: for a search and for a data-parallel training."""
    return task.kind == "search" or task.workers > 1


@dataclass(frozen=True)
class StageTask:
    """A stage as a task."""

    stage: Stage
    priority: float

    @property
    def key(self) -> str:
        """The stage's digest."""
        return self.stage.digest

    @property
    def label(self) -> str:
        """The stage's directory."""
        return self.stage.directory

    @property
    def kind(self) -> str:
        """The stage's kind."""
        return self.stage.kind

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Digests of the stage's inputs, each once."""
        return tuple(dict.fromkeys(needed.digest for needed in self.stage.inputs.values()))

    @property
    def workers(self) -> int:
        """How many data-parallel workers the stage takes."""
        return self.stage.spec.workers

    @property
    def trials(self) -> int:
        """How many candidates the stage has."""
        return self.stage.spec.candidates


def tasks_of(stages: Sequence[Stage]) -> list[StageTask]:
    """Stages as tasks in the same order; the priority is the longest path that waits for a stage.

    Args:
        stages: inputs before what uses them.
    """
    longest = priorities(stages)
    return [StageTask(stage, longest[stage.digest]) for stage in stages]
