"""What the report says of how rows were trained, and where the published figures are no measure for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.checkpoints import new_attempt
from fusiondistill.config_file import parse
from fusiondistill.report.methods import methods_of
from fusiondistill.report.words import protocol_line, protocol_lines
from fusiondistill_runner.planning.specs import TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.parquet import parquet_bytes
from fusiondistill_runner.views import results
from fusiondistill_runner.views.data_names import data_name
from fusiondistill_runner.views.settings import settings
from fusiondistill_runner.views.stage_tables import facts, stage_tables
from planned_report import ABOUT
from report_tables import Page, rows_of, table
from shelf import PLAN, Shelf, drawn
from test_report_tables import as_table, counted, planned

PAPER = "experiment: x\nprotocol: paper\ndata: {name: cifar100}\n"


def of(text: str) -> dict[str, str]:
    config = parse(text).model_dump(mode="json")
    known = methods_of({"methods": ABOUT})
    rows = [{"id": name, "of": known[name].of} for name in config["methods"]]
    return settings({"config": config, "methods": rows})


def test_the_published_experiment_deviates_in_nothing() -> None:
    assert of(PAPER) == {
        "select": "test",
        "training": "all training images; epochs: base 200, expert 100, scratch 200, vanilla 200, fusing 100, "
        "fusiondistill 100",
        "deviations": "",
    }
    usual = of("experiment: x\nmethods: [base, oracle]\n")
    assert usual["training"] == "all training images, 10 % of them held out; epochs: base 200, expert 100"
    own = of(PAPER + "define: {mine: {like: fusing, epochs: 7}}\n")
    assert own["training"].endswith("fusiondistill 100, mine 7") and own["deviations"] == "", "it is not of the paper"


def test_a_plan_without_methods_says_what_it_can() -> None:
    """Of an earlier version: nothing is known of its methods."""
    config = parse(PAPER + "select: last\n").model_dump(mode="json")
    said = {"select": "last", "training": "all training images", "deviations": "epochs chosen by last"}
    assert settings({"config": config}) == said


def test_a_plan_from_before_draws_were_coupled_deviates() -> None:
    for protocol, said in (
        ("paper", "trainings of an earlier version, whose draws were not coupled"),
        ("standard", ""),
    ):
        config = parse(f"experiment: x\nprotocol: {protocol}\n").model_dump(mode="json")
        for method in config["table"].values():
            for section, key in ((None, "coupled_draws"), ("optimizer", "nesterov"), ("schedule", "warmup")):
                (method.get(section, {}) if section else method).pop(key, None)
        rows = [{"id": name} for name in config["methods"]]
        assert settings({"config": config, "methods": rows})["deviations"] == said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("vanilla: {coupled_draws: false}", "other settings of vanilla"),
        ("base: {epochs: 20}", "base 20 instead of 200 epochs"),
        ("base: {optimizer: {lr: 0.05}}\nexpert: {loss: {kd: 1}}", "other settings of base, expert"),
        ("evaluation: {every: 5, precision: bf16}", "one level in 5 measured; evaluated in bf16"),
        ("select: last", "epochs chosen by last"),
        ("degradations: [jpeg, blur]", "other degradations"),
        ("degradations: [jpeg, {name: blur, levels: 0..20}, noise, saltpepper]", "other levels"),
        ("degradations: [saltpepper, noise, blur, jpeg]", ""),
        ("fusion: {recalibrate: mixed}", "other settings of modelsoups"),
        ("resources: {workers_per_run: 2}", "2 data-parallel workers a run"),
        ("methods: [base]\nscratch: {epochs: 3}", ""),
        ("base: {compile: true}", ""),
    ],
)
def test_whatever_else_changes_the_figures_is_named(changed: str, said: str) -> None:
    assert of(f"{PAPER}{changed}\n")["deviations"] == said
    part = of(PAPER.replace("cifar100}", "cifar100, train_images: 5000, test_images: 1000}"))
    assert part["deviations"] == "only 5,000 train images; only 1,000 test images"
    assert part["training"].startswith("5,000 training images; ")


def test_differences_from_published_only_for_its_settings(tmp_path: Path) -> None:
    group = {"dataset": "cifar100", "model": "cifar_resnet56", "protocol": "paper"}
    counts = as_table(counted("vanilla", "blur", {0: 8}, **group))
    cell = {"training": "all training images; epochs: base 20", "select": "test", **group}
    alike, other = (planned(("vanilla", 0, "blur"), deviations=text, **cell) for text in ("", "20 epochs & more"))
    (line,) = (one for one in report.table_lines(counts, planned=alike) if "published, ResNet-56" in one)
    assert line.split()[2:] == ["56.0", "(+24.0)"]
    lines = report.table_lines(counts, planned=other)
    (line,) = (one for one in lines if "published, ResNet-56" in one)
    assert line.split()[2:] == ["56.0"] and "without differences: ours has 20 epochs & more" in " ".join(lines)
    page = Page(report.write(tmp_path, counts, planned=other)[0].read_text())
    assert "all training images; epochs: base 20" in page.text["dd"]
    assert "Trained on all training images; epochs: base 20." in (tmp_path / "table.md").read_text()


def test_a_protocol_is_described_as_the_config_chooses_its_epochs(tmp_path: Path) -> None:
    leak = "scores best on the test split"
    for protocol, select, leaks in (("paper", "", True), ("paper", "test", True), ("paper", "last", False),
                                    ("paper", "validation", False), ("standard", "", False),
                                    ("standard", "last", False)):  # fmt: skip
        texts = (" ".join(protocol_lines(protocol, select)), protocol_line(protocol, select))
        assert all((leak in text) == leaks for text in texts), (protocol, select)
        assert all(("the last one" in text) == (select == "last") for text in texts)
        held_out = (select or protocol) in ("validation", "standard")
        assert all(("best on images held out" in text) == held_out for text in texts)
    plan = planned(("base", 0, "blur"), protocol="paper", select="last")
    counts = as_table(counted("base", "blur", {0: 8}, protocol="paper"))
    text = report.write(tmp_path, counts, planned=plan)[0].read_text()
    assert leak not in text and text.count("kept epoch is the last one") == 2


@pytest.mark.parametrize("select", ["test", "validation"])
def test_curves_are_called_after_the_split_that_they_are_of(tmp_path: Path, select: str) -> None:
    shelf = Shelf(tmp_path)
    spec = next(stage.spec for stage in PLAN.stages if isinstance(stage.spec, TrainSpec))
    base = Stage("base", 0, spec.model_copy(update={"select": select}))
    rows = pa.table({"epoch": [1, 2], "loss": [2.0, 1.0], "train_accuracy": [0.3, 0.4], "validation": [0.2, 0.5]})
    shelf.store.commit(base, {"metrics.parquet": parquet_bytes(rows)}, {}, new_attempt())
    shelf.plan["stages"].append({"name": "base", "kind": "train", "seed": 0, "directory": base.directory})
    shelf.plan["config"] |= {"select": select, "protocol": "paper"}
    curves: Any = stage_tables(shelf.store, [shelf.plan])["curves"]
    assert set(curves["name"].to_pylist()) == {"loss", "train_accuracy", f"{select}_accuracy"}
    assert ("test split (a leak)" in facts(shelf.store, [shelf.plan])["protocol"]) == (select == "test")
    shelf.piece("base", 0, "blur", drawn(1, 0.5, 0), (0,))
    results.write_report(shelf.store, shelf.write())
    labels = (tmp_path / "report" / "figures" / "training-accuracy.svg").read_text()
    assert (">test</text>" in labels) == (select == "test") and (">validation</text>" in labels) != (select == "test")


def test_without_a_plan_nothing_is_said_of_the_settings(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path, table(rows_of(["base"])))[0].read_text())
    assert "Training" not in page.text["dt"] and "best on images held out of training" in page.text["dd"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "folder", "root": "/data/mine"}, "folder mine"),
        ({"name": "parquet", "root": "cats"}, "parquet cats"),
        ({"name": "cifar10", "root": "/data/cifar"}, "cifar10"),
        ({"name": "digits", "root": None}, "digits"),
        ({"name": "of-a-plugin", "root": "/data/mine/"}, "of-a-plugin mine"),
    ],
)
def test_a_name_that_says_nothing_of_the_images_is_told_with_their_folder(data: dict[str, Any], said: str) -> None:
    assert data_name({"data": data}) == said
