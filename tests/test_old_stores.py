"""A store that version 0.1 made: every verb says what it is and what to do, changes nothing, and takes its networks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from fusiondistill import build_model, load_images, load_model, save_checkpoint
from fusiondistill.checkpoints import card_of, checkpoint_digest, sealed, to_safetensors
from fusiondistill.commits import commit, unsealed
from fusiondistill.evaluation import evaluate
from fusiondistill.locations import open_location
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.rows import OtherFormat
from fusiondistill_runner.storage.noted_plans import check_format
from fusiondistill_runner.storage.store import Store
from running import fusiondistill

DIGEST = "056d88add0bb2cfcf3d29b0958af877df8f9340e509525bb9acd5a4ccf113c5a"
BASE = f"base-{DIGEST[:16]}"
CONFIG = """
experiment: tiny
data: {name: digits, train_images: 100, test_images: 40}
model: {name: cifar_resnet8}
degradations: [blur]
methods: [base, oracle]
base: {epochs: 1, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
evaluation: {every: 50}
"""
RECIPE = {
    "epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "schedule": {"name": "steps", "milestones": [0.3, 0.6, 0.8], "factor": 0.2},
    "loss": {"ce": 1.0, "feature": 0.0, "kd": 0.0, "temperature": 4.0}, "checkpoint": None, "teacher_view": "clean",
}  # fmt: skip
DATA = {"name": "digits", "fingerprint": "4391b736560532c8", "held_out": 0.1, "holdout_seed": 0, "train_images": 100}
PLAN: dict[str, Any] = {
    "experiment": "tiny",
    "config": {"experiment": "tiny", "protocol": "standard", "seeds": [0], "model": {"name": "cifar_resnet8"},
               "data": {"name": "digits"}, "evaluation": {"every": 50}, "base": RECIPE},
    "stages": [{"name": "base", "kind": "train", "seed": 0, "directory": BASE}],
    "rows": [], "levels": {"blur": [0, 50]}, "command": "fusiondistill run tiny.yaml",
    "versions": "fusiondistill 0.1.0, ray 2.60.0, torch 2.14.1", "started": "2026-11-01T00:00:00+00:00", "machine": "x",
}  # fmt: skip
"""As `plans/tiny.json` was written: without a format, and without a word about methods."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The store, with one trained stage in it."""
    place = tmp_path / "old"
    filesystem, root = open_location(place)
    digits = load_images("digits", "test")
    torch.manual_seed(0)
    network = build_model("cifar_resnet8", 10)
    card = card_of(
        "cifar_resnet8", None, classes=list(digits.classes), mean=tuple(digits.mean), std=tuple(digits.std),
        size=(16, 16), dataset="digits",
    )  # fmt: skip
    manifest = {
        "format": 1, "kind": "train", "name": "base", "seed": 0, "digest": DIGEST, "inputs": {}, "made_from": {},
        "spec": {"role": "base", "recipe": RECIPE, "degradations": [], "data": DATA, "protocol": "standard"},
        "card": card, "recipe": RECIPE, "outcome": {"epochs": 1, "best_epoch": 1, "select": "validation"},
        "training_seconds": 1.0, "versions": {"torch": "2.14.1"},
    }  # fmt: skip
    commit(
        filesystem,
        f"{root}/{BASE}",
        {"model.safetensors": to_safetensors(network.state_dict(), card)},
        manifest,
        "a574460e",
    )
    (place / "plans").mkdir()
    (place / "plans" / "tiny.json").write_bytes(sealed(PLAN))
    (place / "results.parquet").write_bytes(b"of 0.1")
    return place


def content(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        "status STORE", "status STORE --watch", "report STORE", "report STORE --out OUT", "prune STORE --yes",
        "try STORE",
        "plan CONFIG --store STORE", "run CONFIG --store STORE", "run CONFIG --store STORE --local",
        "run CONFIG --store STORE --set experiment=other", "search CONFIG --store STORE --set search.trials=2",
        "sweep SWEEP --store STORE", "evaluate STORE/BASE --data digits --store STORE",
    ],
)  # fmt: skip
def test_every_verb_says_what_it_is_and_changes_nothing(store: Path, tmp_path: Path, words: str) -> None:
    search = "search: {space: {loss.kd: {uniform: [0, 1]}}}\n"
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("oracle", "fusiondistill") + search)
    (tmp_path / "sweep.yaml").write_text(CONFIG + "sweep: {base.epochs: [1, 2]}\n")
    names = {"STORE": store, "CONFIG": tmp_path / "tiny.yaml", "SWEEP": tmp_path / "sweep.yaml", "BASE": BASE}
    for name, value in {**names, "OUT": tmp_path / "out"}.items():
        words = words.replace(name, str(value))
    before = content(store)
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2, done.output
    assert f"error: {store}/plans/tiny.json was noted by fusiondistill 0.1.0" in done.output
    assert "with the version that made it" in done.output and "into another one (--store)" in done.output
    assert content(store) == before and not (tmp_path / "out").exists()


def test_its_networks_load_and_are_evaluated(store: Path, tmp_path: Path) -> None:
    before, digits = content(store), load_images("digits", "test").take(40)
    model = load_model(store / BASE)
    right, _ = evaluate(model, digits, "blur", [0, 50], seed=123, batch_size=500)
    line = ("evaluate", str(store / BASE), "--data", "digits", "--degradation", "blur", "--every", "50")
    new = str(tmp_path / "new")
    done = fusiondistill(*line, "--images", "40", "--store", new, "--local", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "new" / "results.parquet").to_pylist()
    assert [(row["method"], row["level"], row["right"]) for row in table] == [
        ("base", level, int(count)) for level, count in zip((0, 50), right, strict=True)
    ]
    assert content(store) == before


def test_its_networks_stand_for_stages_of_a_new_store(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG.replace("methods: [base, oracle]", "methods: [base]"))
    given, new = f"base.checkpoint={store / BASE}", str(tmp_path / "new")
    line = ("run", str(tmp_path / "tiny.yaml"), "--set", given, "--store", new, "--local")
    done = fusiondistill(*line, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    (base,) = (tmp_path / "new").glob("base-*")
    weights = next(iter(unsealed((base / "manifest.json").read_bytes(), "")["files"].values()))
    assert weights["sha256"] == checkpoint_digest(store / BASE)
    check_format(Store(tmp_path / "new"))


def test_only_whole_plans_of_another_version_are_refused(store: Path) -> None:
    """What is damaged says nothing of its version; running its config again mends it."""
    path = store / "plans" / "tiny.json"
    path.write_bytes(sealed({**PLAN, "versions": "secret <b>", "format": 3}))
    with pytest.raises(OtherFormat, match="was noted by fusiondistill of another version, whose"):
        check_format(Store(store))
    path.write_bytes(sealed(PLAN)[:-9])
    check_format(Store(store))
    check_format(Store(store / "nowhere"))
    save_checkpoint(store / "x", {"w": torch.zeros(1)}, {})
    check_format(Store(store))
