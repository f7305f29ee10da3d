"""Whole experiments through the real command line: in one process, and through a real Ray, which must be the same."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import running
from fusiondistill.report.words import MISSING
from report_tables import Page
from running import (
    RESULTS,
    TINY,
    contents,
    counts,
    ends,
    fusiondistill,
    stages,
    started,
    weights,
    workers_of,
)

METHODS = {"base", "oracle", "ensemble", "scratch", "vanilla", "modelsoups", "fusing", "fusiondistill"}
DEGRADATIONS = {"jpeg", "blur", "noise", "saltpepper"}


@pytest.fixture(scope="module")
def finished() -> tuple[Path, Path, Path]:
    """A finished run without Ray: (config, store, cache)."""
    return running.finished(TINY, pictures=True)


def here(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run an experiment in one process, without Ray."""
    return fusiondistill("run", *arguments, "--local", cache=cache)


def test_a_run_leaves_every_row_a_table_and_plots(finished: tuple[Path, Path, Path]) -> None:
    config, store, _ = finished
    found = counts(store)
    methods = {method for method, _, _, _ in found}
    assert METHODS | {"fusiondistill-searched"} <= methods
    for method in METHODS:
        assert {d for m, _, d, _ in found if m == method} == DEGRADATIONS
    assert {level for m, _, d, level in found if (m, d) == ("base", "jpeg")} == {1, 26, 51, 76, 101}
    assert all(0 <= right <= seen == 61 for right, seen in found.values())
    for degradation in DEGRADATIONS:
        own = {level: n for (m, _, d, level), n in found.items() if (m, d) == (f"expert-{degradation}", degradation)}
        oracle = {level: n for (m, _, d, level), n in found.items() if (m, d) == ("oracle", degradation)}
        assert oracle == own != {}
    assert "FusionDistill" in (config.parent / "output.txt").read_text()
    assert "FusionDistill" in (store / "report" / "table.md").read_text()
    text = (store / "report" / "index.html").read_text()
    page = Page(text)
    for heading in (
        "Accuracies", "Which differences are established", "Accuracy against level", "Gains and costs", "Examples",
        "Training", "Search", "Fusion", "Time", "What the rows are", "How it was run",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text, heading
    figures = {path.stem for path in (store / "report" / "figures").glob("*.png")}
    assert figures == {
        *(f"accuracy-{d}" for d in DEGRADATIONS), "gain", "clean", "experts", "training-loss", "training-accuracy",
        "search", "search-best", "surface-fused", "time",
    }  # fmt: skip
    drawn = [*(store / "report" / "figures").iterdir()]
    assert len(drawn) == 2 * len(figures) and min(path.stat().st_size for path in drawn) > 2000
    assert page.tags.count("svg") == len(figures) and "Not finished" not in page.text["h2"]
    answers = re.search(r'<table class="answer[^"]*">.*?</table>', text, re.DOTALL)
    assert answers and MISSING not in answers[0] and "Missing" not in page.text["dt"]


def test_counts_are_what_the_stored_model_says_by_hand(finished: tuple[Path, Path, Path], monkeypatch) -> None:
    """One figure of the table, computed again from the checkpoint, one image at a time."""
    import torch

    from fusiondistill import degrade, load_images, load_model

    _, store, cache = finished
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(cache))
    (place,) = stages(store, "fusiondistill-searched")
    model = load_model(place)
    test = load_images("digits", "test").take(61)
    right = 0
    for i in range(61):
        image, label = test.gather([i])
        seen = degrade(image, "noise", 50, seed=123, indices=torch.tensor([i]))
        right += int(model(seen.expand(2, -1, -1, -1))[0].argmax() == label[0])
    assert counts(store)["fusiondistill-searched", 0, "noise", 50] == (right, 61)


def test_the_trials_are_in_a_table_and_the_winner_feeds_distillation(finished: tuple[Path, Path, Path]) -> None:
    _, store, _ = finished
    (search,) = stages(store, "search")
    trials = pq.read_table(next(search.glob("trials.*.parquet"))).to_pylist()
    best = json.loads(next(search.glob("best.*.json")).read_text())
    assert len(trials) == 3
    assert (trials[0]["loss.kd"], trials[0]["loss.kd.temperature"]) == (0.5, 4.0)  # the recipe as it stands comes first
    winner = max(trials, key=lambda t: t["validation"])
    assert best["validation"] == winner["validation"]
    (searched,) = stages(store, "fusiondistill-searched")
    recipe = json.loads((searched / "manifest.json").read_text())["recipe"]
    assert recipe["loss"]["kd"]["weight"] == best["values"]["loss.kd"]
    assert recipe["epochs"] == 2  # a trial had one


def test_a_second_run_starts_no_ray_and_is_quick(finished: tuple[Path, Path, Path]) -> None:
    config, store, cache = finished
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/manifest.json")}
    began = time.monotonic()
    again = fusiondistill("run", str(config), "--store", str(store), cache=cache, options=("-X", "importtime"))
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert time.monotonic() - began < 30  # under 10 on an idle machine
    assert not re.search(r"\| +ray(\.|$)", again.stderr, re.MULTILINE)
    assert before == {path: path.stat().st_mtime_ns for path in store.glob("*/manifest.json")}


def test_after_losing_one_stage_only_it_and_what_follows_run_again(
    finished: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    config, store, cache = finished
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    for directory in stages(copy, "fused"):
        shutil.rmtree(directory)
    before = {path.parent.name: path.stat().st_mtime_ns for path in copy.glob("*/manifest.json")}
    again = here(str(config), "--store", str(copy), cache=cache)
    assert again.returncode == 0, again.stdout + again.stderr
    after = {path.parent.name: path.stat().st_mtime_ns for path in copy.glob("*/manifest.json")}
    made = {name for name in after if after[name] != before.get(name)}
    judged = (f"{kind}-{row}" for kind in ("evaluate", "validate") for row in ("modelsoups", "fus"))
    follow = ("fused", "fusing", "fusiondistill", "search", "trial", *judged)
    assert made and all(name.startswith(follow) for name in made)
    others = ("base", "expert", "scratch", "vanilla", "evaluate-ensemble", "validate-base")
    assert not any(name.startswith(others) for name in made)
    assert counts(copy) == counts(store)
    assert weights(copy) == weights(store)


@pytest.mark.slow
def test_ray_gives_the_bits_of_one_process(finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Every file without times is the same to the byte: of one worker, and of as many as this machine has."""
    config, store, cache = finished
    more = ("--set", f"methods=[{', '.join(sorted({*METHODS, 'routed'}))}]",
            "--set", "routed.inference={name: router, images: 40, views: 1, epochs: 2}")  # fmt: skip
    whole, other = shutil.copytree(store, tmp_path / "whole"), tmp_path / "other"
    done = here(str(config), "--store", str(whole), *more, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    done = fusiondistill("run", str(config), "--store", str(other), *more, cache=cache, fresh=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray Train fit" in done.stdout
    expected = contents(whole, *RESULTS, "routes.parquet")
    assert {name for _, name in expected} == {*RESULTS, "routes.parquet"} and any(
        d.startswith("trial-") for d, _ in expected
    )
    assert contents(other, *RESULTS, "routes.parquet") == expected
    assert counts(other) == counts(whole)


def test_another_batch_size_of_evaluations_gives_the_same_bits(
    finished: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    config, store, cache = finished
    copy = tmp_path / "copy"
    shutil.copytree(store, copy, ignore=shutil.ignore_patterns("evaluate-*"))
    few = ("--set", "evaluation.batch_size=7", "--set", "methods=[base, ensemble]", "--set", "search=null")
    done = here(str(config), "--store", str(copy), *few, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    found, expected = contents(copy, *RESULTS), contents(store, *RESULTS)
    assert found.items() <= expected.items() and len([key for key in found if key[1] == "counts.parquet"]) == 8


@pytest.mark.slow
def test_interrupted_it_keeps_what_is_stored_and_goes_on(finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, reference, cache = finished
    store = tmp_path / "store"
    with started("run", str(config), "--store", str(store), cache=cache, fresh=True) as process:
        limit = time.monotonic() + 120
        while not stages(store, "base") and time.monotonic() < limit:
            time.sleep(0.2)
        family = workers_of(process.pid, "")
        process.send_signal(signal.SIGINT)
        ends(process, family)
    assert process.returncode == 75
    assert stages(store, "base") and not stages(store, "fusiondistill")
    done = here(str(config), "--store", str(store), cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert weights(store) == weights(reference)
    assert counts(store) == counts(reference)


def test_a_checkpoint_stands_for_a_stage(finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, store, cache = finished
    (base,) = stages(store, "base")
    weights_file = next(base.glob("model.*.safetensors"))
    only = ("--set", "methods=[base]", "--store", str(tmp_path / "store"))
    done = here(str(config), "--set", f"base.checkpoint={weights_file}", *only, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {key: value for key, value in counts(store).items() if key[0] == "base"}
    assert counts(tmp_path / "store") == expected
    other = ("--set", f"base.checkpoint={weights_file}", "--set", "model.name=cifar_resnet14")
    done = here(str(config), *other, *only, cache=cache)
    assert done.returncode == 2
    assert "does not fit cifar_resnet14" in done.stderr and "stage1.1.conv1.weight" in done.stderr


def test_told_rows_share_one_set_of_weights(finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from safetensors.numpy import load

    config, store, cache = finished
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    told = ("--set", "fusion.recalibrate=per_degradation", "--set", "methods=[modelsoups]")
    done = here(str(config), "--store", str(copy), *told, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {d for m, _, d, _ in counts(copy) if m == "modelsoups-told"} == DEGRADATIONS
    models = [load(next(path.glob("model.*.safetensors")).read_bytes()) for path in stages(copy, "fused")]
    assert len(models) == 5
    for name in models[0]:
        same = all((model[name] == models[0][name]).all() for model in models)
        assert same != name.endswith(("running_mean", "running_var"))


def test_the_paper_protocol_runs_and_names_its_leaks(finished: tuple[Path, Path, Path], tmp_path: Path) -> None:
    config, _, cache = finished
    store = tmp_path / "store"
    paper = ("--set", "protocol=paper", "--set", "search=null", "--set", "methods=[modelsoups]")
    paper += ("--set", "degradations=[jpeg, blur]")
    done = here(str(config), "--store", str(store), *paper, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    (base,) = stages(store, "base")
    spec = json.loads((base / "manifest.json").read_text())["spec"]
    assert spec["select"] == "test" and spec["data"]["held_out"] == 0 and spec["data_seed"] == 123
    (fused,) = stages(store, "fused")
    assert json.loads((fused / "manifest.json").read_text())["outcome"]["recalibrate"] == "none"
    page = (store / "report" / "index.html").read_text()
    assert "Leak: the kept epoch is the one that scores best on the test split" in page
    assert "the kept epoch is the one that scores best on the test split (a leak)." in page
