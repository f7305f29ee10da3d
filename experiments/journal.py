"""What a search has tried so far, kept in the store while it runs: a small file for each candidate.

Whoever starts a search again finds them in their order: those that ended are judged by the rows noted here, those that
were under way go on from their last stored epoch, and those that failed are tried once more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from experiments.stage import SearchSpec, Stage, trial_stage
from experiments.store import Store
from fusiondistill.checkpoints import digest

__all__ = ["Candidate", "Journal"]

Row = Mapping[str, float]


@dataclass
class Candidate:
    """One point of the space and what became of it."""

    number: int
    values: dict[str, Any]
    directories: list[str] = field(default_factory=list)
    """Of its training stages, one for each repeat."""
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    """Epoch -> metrics, means over the repeats; accuracies are fractions."""
    outcome: str = "open"
    """open, done, stopped (early) or failed."""
    error: str | None = None
    started: float = field(default_factory=time.time)
    finished: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it needs no more work."""
        return self.outcome != "open"

    @property
    def score(self) -> float | None:
        """The best validation accuracy of its epochs, a fraction; None if it failed or has none."""
        judged = [row["validation"] for row in self.rows.values()]
        return max(judged) if judged and self.error is None else None


class Journal:
    """The candidates of a search in the order in which they were started.

    Args:
        search: the search stage.
        store: where its directory lies.
    """

    def __init__(self, search: Stage, store: Store) -> None:
        self.search, self.store = search, store
        self.address = {"search": search.digest, "made_from": store.made_from(search)}
        self.candidates: list[Candidate] = []
        while found := self._read(len(self.candidates)):
            self.candidates.append(found)

    def begin(self, values: dict[str, Any]) -> Candidate:
        """Note a new candidate."""
        assert isinstance(self.search.spec, SearchSpec)
        candidate = Candidate(len(self.candidates), values)
        self.candidates.append(candidate)
        try:
            stages = [trial_stage(self.search, values, repeat) for repeat in range(self.search.spec.seeds)]
            candidate.directories = [stage.directory for stage in stages]
        except ValueError as error:  # values that are no recipe together
            self.end(candidate, "failed", str(error).replace("\n", " "))
        else:
            self._write(candidate)
        return candidate

    def end(self, candidate: Candidate, outcome: str, error: str | None = None) -> None:
        """Note how a candidate ended: done, stopped or failed."""
        candidate.outcome, candidate.error, candidate.finished = outcome, error, time.time()
        self._write(candidate)

    def _name(self, number: int) -> str:
        return f"last.candidate-{number:06}.json"  # the store deletes `last.*` once the search is committed

    def _write(self, candidate: Candidate) -> None:
        body = json.dumps({**self.address, "candidate": asdict(candidate)})
        content = json.dumps({"sha256": digest(body.encode()), "body": body})
        self.store.write(content.encode(), self.search.directory, self._name(candidate.number))

    def _read(self, number: int) -> Candidate | None:
        """A candidate that an earlier run noted; None if there is none, or none that can be relied on."""
        data = self.store.read_raw(self.search.directory, self._name(number))
        try:
            content = json.loads(data) if data is not None else {}
            body = json.loads(content["body"]) if digest(content["body"].encode()) == content["sha256"] else {}
        except (ValueError, KeyError, TypeError):
            return None
        if {name: body.get(name) for name in self.address} != self.address:
            return None
        candidate = Candidate(**body["candidate"])
        candidate.rows = {int(epoch): row for epoch, row in candidate.rows.items()}
        if candidate.outcome == "failed":
            candidate.outcome, candidate.error = "open", None
        return candidate
