"""What the scheduling rules see of a stage: its key, kind, needs and priority, and how many workers it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from fusiondistill_runner.planning.stage import Stage, priorities

__all__ = ["TRAINS", "StageTask", "Task", "Trial", "is_pulled", "search_of", "tasks_of"]

TRAINS = frozenset({"train", "trial"})
"""Kinds of tasks that only a worker of a Ray Train group does."""


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
        """train, fuse, search, fit, pack, evaluate, validate or import; trial: one candidate of a search."""

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


def is_pulled(task: Task) -> bool:
    """Whether a worker takes the task from the queue; a search's trials are pulled, the search is not."""
    return task.kind != "search" and task.workers == 1


def search_of(key: str) -> str:
    """The key of the search that a trial belongs to; that of any other task is its own."""
    return key.partition("#")[0]


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


@dataclass(frozen=True)
class Trial:
    """A candidate of a search, as a task.

    Attributes:
        search: the search stage.
        number: the candidate's.
        values: its values.
        priority: the search's.
    """

    search: Stage
    number: int
    values: dict[str, Any] = field(hash=False)
    priority: float = 0.0
    kind: str = "trial"
    needs: tuple[str, ...] = ()
    workers: int = 1
    trials: int = 1

    @property
    def key(self) -> str:
        """The search's digest, and the number."""
        return f"{self.search.digest}#{self.number}"

    @property
    def label(self) -> str:
        """The search's directory, and the number."""
        return f"{self.search.directory}/{self.number}"


def tasks_of(stages: Sequence[Stage]) -> list[StageTask]:
    """Stages as tasks in the same order; the priority is the longest path that waits for a stage.

    Args:
        stages: inputs before what uses them.
    """
    longest = priorities(stages)
    return [StageTask(stage, longest[stage.digest]) for stage in stages]
