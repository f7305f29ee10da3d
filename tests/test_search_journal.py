"""What a search leaves for a restart: candidates in their order, ended or not, with sound files or damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fusiondistill.checkpoints import digest, new_attempt
from fusiondistill.config_file import parse
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.planning.trials import as_it_stands, trial_stage
from fusiondistill_runner.searching.journal import Journal
from fusiondistill_runner.searching.search_results import outcome
from fusiondistill_runner.searching.trials import Trials
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.storage.store import Store

KD = "{loss.kd: {uniform: [0, 1]}}"
NOTHING = {"loss.ce": 0, "loss.feature": 0, "loss.kd": 0}
ROW = {"epoch": 1.0, "validation": 0.25, "seconds": 1.0}


def search_of(settings: str, space: str = KD, *overrides: str) -> Stage:
    text = f"experiment: x\nfusiondistill: {{epochs: 2}}\nsearch: {{{settings} space: {space}}}\n"
    stages = build(parse(text, overrides=overrides), "f", lambda _: range(3)).stages
    (found,) = (stage for stage in stages if stage.kind == "search")
    return found


def test_the_journal_gives_back_what_was_noted_and_tries_failures_again(tmp_path: Path) -> None:
    search, store = search_of("seeds: 2,"), Store(tmp_path)
    journal = Journal(search, store)
    assert journal.candidates == []
    for number in range(5):
        one = journal.begin({"loss.kd": number / 10})
        one.rows = {1: ROW}
        if number < 3:
            journal.end(one, ("done", "stopped", "failed")[number], "broke" if number == 2 else None)
    again = Journal(search, store).candidates
    assert [c.outcome for c in again] == ["done", "stopped", "open", "open", "open"]
    assert [c.values["loss.kd"] for c in again] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert again[:2] == journal.candidates[:2] and again[2].error is None
    other = search_of("seeds: 3,")
    (tmp_path / search.directory).rename(tmp_path / other.directory)
    assert Journal(other, store).candidates == []  # of another search


def test_a_damaged_file_is_one_candidate_lost_whose_number_goes_to_the_next(tmp_path: Path) -> None:
    search, store = search_of(""), Store(tmp_path)
    journal = Journal(search, store)
    for number in range(4):
        one = journal.begin({"loss.kd": number / 10})
        one.rows = {1: ROW}
        journal.end(one, "stopped")
    place = tmp_path / search.directory / "last.candidate-000001.json"
    place.write_text(place.read_text().replace("0.25", "0.95"))
    (tmp_path / search.directory / "last.candidate-000002.json").unlink()
    again = Journal(search, store)
    assert [c.number for c in again.candidates] == [0, 3]
    assert [again.begin({"loss.kd": kd}).number for kd in (0.1, 0.2, 0.5)] == [1, 2, 4]
    assert [c.values["loss.kd"] for c in Journal(search, store).candidates] == [0.0, 0.1, 0.2, 0.3, 0.5]


def trials_of(search: Stage, store: Store) -> Any:
    return Trials(search, store, None, lambda facts: None)


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_values_that_are_no_recipe_are_listed_and_never_tried(tmp_path: Path, searcher: str) -> None:
    space = "{loss.ce: {choice: [0]}, loss.feature: {choice: [0]}, loss.kd: {choice: [0]}}"
    search, store = search_of(f"trials: 5, searcher: {searcher},", space), Store(tmp_path)
    for _ in ("first start", "restart"):
        trials = trials_of(search, store)
        candidate = trials.next()
        assert candidate.values == as_it_stands(search) and not candidate.ended
        assert trials.next() is None
        (invalid,) = (one for one in trials.journal.candidates if one.ended)
        assert invalid.values == NOTHING and invalid.invalid and "all weights are 0" in str(invalid.error)


def trained(stage: Stage, store: Store) -> None:
    """Store a training with two epochs."""
    rows = [{"epoch": float(epoch), "loss": 1.0, "validation": epoch / 4, "seconds": 1.0} for epoch in (1, 2)]
    store.commit(stage, {"metrics.parquet": parquet_bytes(pa.Table.from_pylist(rows))}, {}, new_attempt())


def test_the_first_candidate_is_judged_by_the_stored_distillation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for repeats in (1, 2):
        search = search_of(f"trials: 3, seeds: {repeats},")
        plain = search.inputs["plain"]
        for stage in ancestors(plain):
            trained(stage, store)
        if repeats == 2:
            trained(trial_stage(search, as_it_stands(search), 1), store)
        trials = trials_of(search, store)
        assert trials.next().number == 1, "the first is stored"
        first = trials.journal.candidates[0]
        assert first.directories[0] == plain.directory and len(first.directories) == repeats
        assert (first.outcome, first.score, sorted(first.rows)) == ("done", 0.5, [1, 2])
        best = {"values": first.values, "validation": 0.5, "trial": 0}
        assert plain.directory in outcome([first], best)["directories"]
        restart = trials_of(search, store)
        assert restart.journal.candidates[0].rows == first.rows and restart.next().number == 1
        restart.commit()
        assert store.intact(plain) is None and json.loads(store.read(search, "best.json"))["trial"] == 0


def crafted(search: Stage, store: Store, **changes: Any) -> None:
    """What a stranger may leave: the file of a candidate with changes, its digest computed anew."""
    one = Journal(search, store).begin({"loss.kd": 0.5})
    path = Path(store.path(search.directory, f"last.candidate-{one.number:06}.json"))
    body = json.loads(json.loads(path.read_bytes())["body"])
    body["candidate"] |= changes
    text = json.dumps(body)
    path.write_text(json.dumps({"sha256": digest(text.encode()), "body": text}))


@pytest.mark.parametrize("directory", ["", ".", "../victim", "../../home", "report"])
def test_a_journal_cannot_name_what_is_deleted_at_the_end(directory: str, tmp_path: Path) -> None:
    search, store = search_of(""), Store(tmp_path / "store")
    for place in ("victim/a", "store/report/a"):
        (tmp_path / place).mkdir(parents=True)
    crafted(search, store, directories=[directory], outcome="done", rows={"1": ROW})
    trial = trial_stage(search, {"loss.kd": 0.5})
    store.save_progress(trial, 1, b"state", "a")
    (found,) = Journal(search, store).candidates
    assert found.directories == [trial.directory] and found.outcome == "done"
    trials_of(search, store).commit()
    assert (tmp_path / "victim" / "a").is_dir() and (tmp_path / "store" / "report" / "a").is_dir()
    assert store.intact(search) is None and trial.directory not in store.directories()


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 7}, {"values": {}}, {"values": {"epochs": 10**9}}, {"values": {"loss.kd": 0.5, "loss.ce": 1}},
        {"values": []}, {"rows": {"1": {}}}, {"rows": {"1": []}}, {"rows": {"x": ROW}}, {"rows": []},
        {"rows": {"1": {**ROW, "validation": "best"}}}, {"outcome": "won"}, {"outcome": []}, {"started": "today"},
        {"error": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_candidate_that_no_version_would_note_is_lost(changes: dict[str, Any], tmp_path: Path) -> None:
    search, store = search_of(""), Store(tmp_path)
    crafted(search, store)
    assert len(Journal(search, store).candidates) == 1
    crafted(search, store, **changes)
    assert [one.number for one in Journal(search, store).candidates] == [0]


def test_a_damaged_trial_does_not_fail_the_search_that_is_over(tmp_path: Path) -> None:
    search, store = search_of(""), Store(tmp_path)
    journal = Journal(search, store)
    one = journal.begin({"loss.kd": 0.5})
    one.rows = {1: ROW}
    journal.end(one, "done")
    store.write(b"{", one.directories[0], "manifest.json")
    trials_of(search, store).commit()
    assert store.intact(search) is None and one.directories[0] in store.directories()
