"""The candidates of a search, noted in the store while it runs: a small file for each.

A search that starts again reads them in order. Candidates that ended are judged by the rows noted here, those under way
go on from their last stored epoch, and those that failed are tried once more, unless their values are no recipe. Where
a file is damaged the candidate is lost; the next new candidate gets its number.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from fusiondistill.checkpoints import digest
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import spec_of, trial_stage
from fusiondistill_runner.storage.store import Store

__all__ = ["Candidate", "Journal", "Outcome"]

NAME = "last.candidate-"
"""How a candidate's file name begins. The store deletes ``last.*`` once the search is committed."""

Outcome = Literal["open", "done", "stopped", "failed"]
"""``stopped``: ASHA ended it early."""


@dataclass
class Candidate:
    """One point of the search space and its outcome."""

    number: int
    values: dict[str, Any]
    directories: list[str] = field(default_factory=list)
    """Directories of its training stages, one for each repeat; none if its values are no recipe together."""
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    """Epoch -> metrics, means over the repeats; accuracies are fractions."""
    outcome: Outcome = "open"
    error: str | None = None
    started: float = field(default_factory=time.time)
    finished: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it needs no more work."""
        return self.outcome != "open"

    @property
    def invalid(self) -> bool:
        """Whether its values are no recipe together, so that there is nothing to train."""
        return self.outcome == "failed" and not self.directories

    @property
    def score(self) -> float | None:
        """The best validation accuracy of its epochs, a fraction; None if it failed or has none."""
        judged = [row["validation"] for row in self.rows.values()]
        return max(judged) if judged and self.error is None else None


_READER = TypeAdapter(Candidate)
_MEASURED = {"epoch", "validation", "seconds"}


class Journal:
    """The candidates of a search in the order in which they were started.

    Args:
        search: the search stage.
        store: where its directory lies.
    """

    def __init__(self, search: Stage, store: Store) -> None:
        self.search, self.store = search, store
        self.made_from = store.made_from(search)
        self.address = {"search": search.digest, "made_from": self.made_from}
        self.known: dict[int, Candidate] = {}
        for number in self._numbers():
            if found := self._read(number):
                self.known[number] = found

    @property
    def candidates(self) -> list[Candidate]:
        """All candidates, by their numbers."""
        return [self.known[number] for number in sorted(self.known)]

    def begin(self, values: dict[str, Any]) -> Candidate:
        """Note a new candidate."""
        count = len(self.known)
        number = min(set(range(count)) - self.known.keys(), default=count)  # a lost candidate's, or the next
        candidate = self.known[number] = Candidate(number, values)
        try:
            candidate.directories = self._directories(values)
        except ValueError as error:  # values that are no recipe together
            self.end(candidate, "failed", str(error).replace("\n", " "))
        else:
            self._write(candidate)
        return candidate

    def _directories(self, values: Mapping[str, Any]) -> list[str]:
        """The directories of a candidate's training stages; ValueError: its values are no recipe together."""
        return [trial_stage(self.search, values, repeat).directory for repeat in range(spec_of(self.search).seeds)]

    def end(self, candidate: Candidate, outcome: Outcome, error: str | None = None) -> None:
        """Note how a candidate ended: done, stopped or failed."""
        candidate.outcome, candidate.error, candidate.finished = outcome, error, time.time()
        self._write(candidate)

    def _name(self, number: int) -> str:
        return f"{NAME}{number:06}.json"

    def _numbers(self) -> list[int]:
        """The numbers of the candidates that an earlier run noted, in order."""
        from pyarrow import fs

        folder = fs.FileSelector(self.store.path(self.search.directory), allow_not_found=True)
        names = [info.base_name for info in self.store.filesystem.get_file_info(folder)]
        found = (name.removeprefix(NAME).removesuffix(".json") for name in names if name.startswith(NAME))
        return sorted(int(number) for number in found if number.isdecimal())

    def _write(self, candidate: Candidate) -> None:
        body = json.dumps({**self.address, "candidate": asdict(candidate)})
        content = json.dumps({"sha256": digest(body.encode()), "body": body})
        self.store.write(content.encode(), self.search.directory, self._name(candidate.number))

    def _read(self, number: int) -> Candidate | None:
        """A candidate that an earlier run noted; None if its file is damaged."""
        data = self.store.read_raw(self.search.directory, self._name(number))
        try:
            content = json.loads(data) if data is not None else {}
            body = json.loads(content["body"]) if digest(content["body"].encode()) == content["sha256"] else {}
            candidate = self._candidate(body, number)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if candidate.outcome == "failed" and not candidate.invalid:
            candidate.outcome, candidate.error = "open", None
        return candidate

    def _candidate(self, body: Mapping[str, Any], number: int) -> Candidate:
        """The candidate in a file of :meth:`_write`.

        Another program may have forged the file and its digest. The search deletes a candidate's directories at its
        end, so they are computed here, not read.
        """
        candidate = _READER.validate_python(body["candidate"])
        known = {name: body.get(name) for name in self.address} == self.address and candidate.number == number
        measured = all(row.keys() >= _MEASURED for row in candidate.rows.values())
        if not known or not measured or candidate.values.keys() != spec_of(self.search).space.keys():
            raise ValueError("a candidate of another search, or of none")
        candidate.directories = []
        with contextlib.suppress(ValueError):
            candidate.directories = self._directories(candidate.values)
        return candidate
