"""A search: what it makes of its trials, what it leaves for a restart, and a real one through Ray."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from fusiondistill.config_file import parse
from fusiondistill.data import fingerprint
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage, ancestors
from fusiondistill_runner.planning.trials import chosen_start, trial_stage, with_found
from fusiondistill_runner.searching.importance import importance
from fusiondistill_runner.searching.journal import Candidate
from fusiondistill_runner.searching.search_results import best_config, choose, epoch_rows, outcome, summary, trial_rows
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute, perform
from fusiondistill_runner.working.trial import stored_rows, train_candidate
from running import RESULTS, contents, fusiondistill, stages

CONFIG = """
experiment: x
fusiondistill: {epochs: 3}
search:
  trials: 4
  space: {loss.kd: {uniform: [0, 1]}, schedule.milestones: {choice: [[0.3, 0.6], [0.5]]}}
"""


def planned(text: str, found: str = "f") -> Plan:
    return build(parse(text), found, lambda _: range(3))


def search_of(plan: Plan) -> Stage:
    (found,) = (stage for stage in plan.stages if stage.kind == "search")
    return found


def spec() -> SearchSpec:
    found = search_of(planned(CONFIG)).spec
    assert isinstance(found, SearchSpec)
    return found


def candidate(number: int, validations: list[float], error: str | None = None, **values: Any) -> Candidate:
    rows = {i + 1: {"epoch": i + 1.0, "validation": v, "seconds": 2.0} for i, v in enumerate(validations)}
    ended = "failed" if error else "done" if len(rows) == 3 else "stopped"
    return Candidate(number, values, ["trial-d"], rows, ended, error)


def trial(number: int, validations: list[float], error: str | None = None, **values: Any) -> dict[str, Any]:
    return summary(candidate(number, validations, error, **values), spec())


def test_a_trial_is_judged_by_its_best_epoch_and_the_later_one_of_equals() -> None:
    found = trial(0, [0.5, 0.7, 0.7])
    assert (found["validation"], found["best_epoch"], found["epochs"], found["seconds"]) == (0.7, 3, 3, 6.0)
    assert not found["stopped"] and trial(0, [0.5])["stopped"]
    assert trial(0, [])["validation"] is None


def test_the_best_trial_wins_the_earlier_one_of_equals_and_never_one_that_broke() -> None:
    broken = trial(2, [0.9], error="NonFiniteLoss")
    winner = choose([trial(0, [0.5]), trial(1, [0.6]), broken, trial(3, [0.6])])
    assert winner is not None and winner["trial"] == 1
    assert choose([broken, trial(3, [])]) is None


def test_values_that_are_lists_or_nothing_reach_the_distillation_as_they_are() -> None:
    values = {"loss.kd": 0.5, "schedule.milestones": [0.3, 0.6]}
    found = trial(0, [0.5], **values)
    assert found["values"] == values
    (row,) = trial_rows([found])
    assert row["schedule.milestones"] == "[0.3, 0.6]" and row["loss.kd"] == 0.5


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ([1, 0.5], [1.0, 0.5]), ([1, 2], [1, 2]), ([None, 8], ["null", "8"]), (["a", "b"], ["a", "b"]),
        ([True, False], [True, False]), ([True, 1], ["true", "1"]), ([[0.5], "x"], ["[0.5]", "x"]),
    ],
)  # fmt: skip
def test_a_column_of_the_trials_has_one_type(given: list[Any], column: list[Any]) -> None:
    import pyarrow as pa

    rows = trial_rows([trial(n, [0.5], **{"loss.kd": value}) for n, value in enumerate(given)])
    assert pa.Table.from_pylist(rows)["loss.kd"].to_pylist() == column


def test_importance_finds_what_mattered_and_says_when_nothing_did() -> None:
    source = random.Random(0)
    values = [{"a": source.random(), "b": source.choice(["x", "y"]), "c": source.random()} for _ in range(60)]
    shares, fit = importance(values, [0.5 + 0.4 * v["a"] + 0.1 * (v["b"] == "y") for v in values])
    assert shares is not None and fit is not None and fit > 0.8
    assert shares["a"] > shares["b"] > shares["c"] and sum(shares.values()) == pytest.approx(1)
    assert importance(values, [0.5 + 0.4 * v["a"] + 0.1 * (v["b"] == "y") for v in values]) == (shares, fit)
    _, noise = importance(values, [source.random() for _ in values])
    assert noise is not None and noise < 0.3
    nothing = (None, None)
    assert importance(values[:7], [float(n) for n in range(7)]) == nothing
    assert importance(values, [0.5] * 60) == nothing
    assert importance([{"a": v["a"]} for v in values], [v["a"] for v in values]) == nothing
    assert importance([], []) == nothing


def test_trials_are_compared_after_as_many_epochs_as_all_of_them_had() -> None:
    kd = [n / 20 for n in range(20)]
    long = {n: [0.5 - x / 10, 0.9, 0.9] for n, x in enumerate(kd)}
    every = [candidate(n, v if n % 2 else v[:1], **{"loss.kd": kd[n], "batch_size": n % 3}) for n, v in long.items()]
    found = outcome([*every, candidate(20, [], error="broken")], {"values": {}, "validation": 0.9, "trial": 1})
    assert found["importance_epoch"] == 1 and found["importance"]["loss.kd"] > 0.9 and found["importance_r2"] > 0.5
    assert (found["trials"], found["stopped"], found["failed"]) == (21, 10, 1)
    rows = epoch_rows(every, ())
    assert len(rows) == 10 * 1 + 10 * 3
    assert rows[1] == {"trial": 1, "epoch": 1, "validation": long[1][0], "seconds": 2.0}


def test_the_best_is_a_config_whose_distillation_is_the_searched_one() -> None:
    text = CONFIG.replace("loss.kd", "start.merge: {choice: [ties]}, cutout: {choice: [null, 4]}, loss.kd")
    config = parse(text, overrides=["data.train_images=300", "seeds=[0, 1]", "base.cutout=2"])
    values = {"start.merge": "ties", "cutout": 4, "loss.kd": 0.25, "schedule.milestones": [0.5]}
    written = best_config(config, "fusiondistill", values, 1)
    best = parse(written)
    assert not best.search and best.experiment == "x-best-seed1" and "#   loss.kd: 0.25" in written
    assert best.seeds == (1,) and best.methods == ("base", "fusiondistill")
    few = config.model_copy(update={"methods": ("fusiondistill", "vanilla"), "experiment": 64 * "x"})
    alone = parse(best_config(few, "fusiondistill", values, 12))
    assert alone.methods == ("fusiondistill",) and alone.experiment == 52 * "x" + "-best-seed12"
    plans = [build(one, "f", lambda _: range(3)).stages for one in (config, best)]
    (searched,) = (s for s in plans[0] if (s.name, s.seed) == ("fusiondistill-searched", 1))
    (distilled,) = (s for s in plans[1] if (s.name, s.seed) == ("fusiondistill", 1))
    assert isinstance(searched.spec, TrainSpec) and isinstance(distilled.spec, TrainSpec)
    assert distilled.spec == searched.spec.model_copy(update={"recipe": with_found(searched.spec.recipe, values)})
    assert distilled.inputs["start"].digest == chosen_start(searched.inputs["start"], values).digest
    assert all(distilled.inputs[role].digest == s.digest for role, s in searched.inputs.items() if "teacher" in role)


TOY = """
experiment: toy
data: {name: digits, train_images: 200, test_images: 20}
model: {name: cifar_resnet8}
degradations: [blur, noise]
methods: [fusiondistill]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
fusiondistill: {epochs: 3, batch_size: 32}
evaluation: {every: 50}
"""


SEARCH = """
search:
  epochs: 2
  seeds: 2
  space:
    start.merge: {grid: [average, ties]}
    optimizer.lr: {grid: [1.0e-3, 1.0e+30]}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, Path]:
    """A search stage over two seeds a candidate, and a store with all that it and ``SEARCH`` rest on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = fingerprint("digits", root=None)
    search = search_of(planned(TOY + "search: {seeds: 2, space: {loss.kd: {uniform: [0, 1]}}}\n", found))
    folder = tmp_path_factory.mktemp("prepared")
    for stage in ancestors(search_of(planned(TOY + SEARCH, found))):
        if stage.kind != "search":
            execute(stage, Context(str(folder)), torch.device("cpu"), lambda _: None)
    torch.set_num_threads(threads)
    return search, folder


def test_an_epoch_at_a_time_gives_the_bits_of_a_training_in_one_go(
    prepared: tuple[Stage, Path], tmp_path: Path
) -> None:
    search, folder = prepared
    one = trial_stage(search, {"loss.kd": 0.5})
    device = torch.device("cpu")
    whole, parts = (Context(str(shutil.copytree(folder, tmp_path / name))) for name in ("whole", "parts"))
    rows: list[Any] = []
    perform(one, Store(whole.store), whole, device, rows.append)
    told: list[Any] = []
    for epoch in (1, 1, 2, 3):
        found: list[Any] = []
        perform(one, Store(parts.store), parts, device, found.append, until=epoch)
        assert [row["validation"] for row in found] == [row["validation"] for row in rows[:epoch]]
        told += found
        assert (Store(parts.store).intact(one) is None) == (epoch == 3)
    a, b = (Store(context.store).read(one, "model.safetensors") for context in (whole, parts))
    assert a == b and len(rows) == 3
    assert {row["epoch"] for row in told} == {1, 2, 3}


def test_repeats_are_trained_side_by_side_and_their_means_told(prepared: tuple[Stage, Path], tmp_path: Path) -> None:
    search, folder = prepared
    context = Context(str(shutil.copytree(folder, tmp_path / "store")))
    store, values = Store(context.store), {"loss.kd": 0.5}
    pair = [trial_stage(search, values, repeat) for repeat in (0, 1)]
    told: list[dict[str, Any]] = []

    def report(row: dict[str, Any]) -> None:
        told.append(row)
        stored = [store.epochs_stored(one.directory) or 3 * (store.intact(one) is None) for one in pair]
        assert stored == [len(told)] * 2  # in step

    train_candidate(search, values, context, torch.device("cpu"), report)
    own = [pq.read_table(next(Path(context.store, p.directory).glob("metrics.*"))).to_pylist() for p in pair]
    assert own[0] != own[1]
    for epoch in range(3):
        for name in ("validation", "validation_blur", "validation_noise"):
            assert told[epoch][name] == pytest.approx((own[0][epoch][name] + own[1][epoch][name]) / 2)
        assert told[epoch]["epoch"] == epoch + 1
    assert all(row.pop("kept") for row in told)
    assert stored_rows(search, values, store) == {int(row["epoch"]): row for row in told}
    assert stored_rows(search, {"loss.kd": 0.6}, store) is None


def _named(found: dict[tuple[str, str], bytes]) -> dict[tuple[str, str], bytes]:
    """The files of stages, those of the search under its name alone."""
    return {(d.rpartition("-")[0] if d.startswith("search") else d, name): data for (d, name), data in found.items()}


@pytest.mark.slow
def test_a_search_through_ray(prepared: tuple[Stage, Path], tmp_path: Path) -> None:
    """Over a grid of fusions, with repeats, half of it bound to fail."""
    config, store, cache = tmp_path / "toy.yaml", tmp_path / "store", tmp_path / "cache"
    config.write_text(TOY + SEARCH)
    shutil.copytree(prepared[1], store)
    done = fusiondistill("search", str(config), "--store", str(store), "--set", "resources.workers=2", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    (search,) = stages(store, "search")
    trials = pq.read_table(next(search.glob("trials.*.parquet"))).to_pylist()
    assert [(t["start.merge"], t["optimizer.lr"]) for t in trials] == [
        ("average", 1e-3), ("average", 1e30), ("ties", 1e-3), ("ties", 1e30),
    ]  # fmt: skip
    for row in trials:
        hot = row["optimizer.lr"] == 1e30
        assert (row["validation"] is None) == hot and ("is not finite" in str(row["error"])) == hot, row
        assert row["seeds"] == 2 and not row["stopped"] and row["finished"] > row["started"]
    outcome = json.loads((search / "manifest.json").read_text())["outcome"]
    assert (outcome["trials"], outcome["failed"], outcome["stopped"], outcome["importance"]) == (4, 2, 0, None)
    trained = stages(store, "trial")
    assert {path.name for path in trained} == set(outcome["directories"]) and len(trained) == 4
    made = [json.loads((path / "manifest.json").read_text()) for path in trained]
    here = tmp_path / "here"
    shutil.copytree(prepared[1], here)
    done = fusiondistill("search", str(config), "--local", "--store", str(here), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    # Without Ray it comes to the same; the search itself is another stage, since it has no ASHA.
    assert _named(contents(here, *RESULTS)) == _named(contents(store, *RESULTS))
    assert len({m["inputs"]["start"] for m in made}) == 2 and len({m["spec"]["data_seed"] for m in made}) == 2
    epochs = pq.read_table(next(search.glob("epochs.*.parquet"))).to_pylist()
    assert [(e["trial"], e["epoch"]) for e in epochs] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert max(e["validation"] for e in epochs if e["trial"] == 2) == trials[2]["validation"]
    best = json.loads(next(search.glob("best.*.json")).read_text())
    assert best["validation"] == max(t["validation"] for t in trials if t["validation"] is not None)
    assert not list(search.glob("last.*"))
