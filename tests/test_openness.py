"""Six kinds of entries and a row, each one short file and one line of YAML: one run of all of them, and changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fusiondistill import config_file
from fusiondistill_runner.driving.changes import changed_plugins
from fusiondistill_runner.driving.prepared import prepare
from mistaken import only_mistake
from running import RESULTS, contents, counts, finished, fusiondistill, stages, weights

PLUGINS = Path(__file__).parent / "plugins"
FILES = ("by_accuracy", "margin", "confident", "stripes", "tiny", "fog")
"""A merging method that needs labelled batches, loss terms, a way of inference, a data source, a network, and a
degradation."""

LINES = {
    "data source": "data: {name: stripes, side: 16, count: 40}",
    "network": "model: {name: tiny, width: 6}",
    "degradation": "degradations: [fog, blur]",
    "merging method": "  own-start: {start: {merge: by_accuracy, of: expert, power: 2.0}}",
    "way of inference": "  own-vote: {of: expert, inference: {name: confident, temperature: 2.0}}",
    "loss term": "  mine: {like: small, loss: {feature: 0, margin: {weight: 0.5, width: 2.0}, squared: 0.1}}",
    "row": "  small: {like: fusiondistill, title: Small, start: own-start, epochs: 2, batch_size: 16}",
}
"""Of each kind the one line that a config needs (beside ``plugins``, which names the files)."""


def config(folder: Path) -> str:
    """One experiment with all of it."""
    top = "\n".join(LINES[kind] for kind in ("data source", "network", "degradation"))
    rows = "\n".join(LINES[kind] for kind in ("merging method", "way of inference", "row", "loss term"))
    files = json.dumps([str(folder / f"{name}.py") for name in FILES])
    return f"""
experiment: own
plugins: {files}
{top}
methods: [base, oracle, own-start, own-vote, mine]
base: {{epochs: 1, batch_size: 16}}
expert: {{epochs: 1, batch_size: 16}}
define:
{rows}
evaluation: {{every: 10}}
"""


@pytest.fixture(scope="module")
def own() -> tuple[Path, Path, Path]:
    """The finished run in one process: (config, store, cache)."""
    return finished(config(PLUGINS))


def test_each_is_one_short_file_and_one_line(own: tuple[Path, Path, Path]) -> None:
    text = own[0].read_text().splitlines()
    assert all("\n" not in line and line in text for line in LINES.values())
    for name in FILES:
        lines = (PLUGINS / f"{name}.py").read_text().splitlines()
        assert len(lines) <= 40, f"{name}.py has {len(lines)} lines"


def test_all_of_it_is_in_the_table(own: tuple[Path, Path, Path]) -> None:
    _, store, _ = own
    found = counts(store)
    assert {m for m, *_ in found} == {"base", "oracle", "expert-fog", "expert-blur", "own-start", "own-vote", "mine"}
    assert {d for _, _, d, _ in found} == {"fog", "blur"} and {seen for _, seen in found.values()} == {40}
    (fused,), (mine,) = stages(store, "fused"), stages(store, "mine")
    spec = json.loads((fused / "manifest.json").read_text())["spec"]
    assert (spec["merge"], spec["parameters"]) == ("by_accuracy", {"power": 2.0})
    manifest = json.loads((mine / "manifest.json").read_text())
    assert manifest["spec"]["recipe"]["loss"]["margin"] == {"weight": 0.5, "width": 2.0}
    assert manifest["spec"]["model"]["width"] == 6 and manifest["spec"]["data"]["side"] == 16
    metrics = pq.read_table(mine / manifest["files"]["metrics.parquet"]["file"])
    assert {"ce", "margin", "squared"} <= set(metrics.column_names) and "feature" not in metrics.column_names
    told = {method["id"]: method for method in json.loads((store / "plans" / "own.json").read_text())["methods"]}
    assert told["own-vote"]["passes"] == 2 and told["mine"]["start"] == "own-start"
    assert "own-vote" in (store / "report" / "index.html").read_text()


@pytest.mark.slow
def test_through_ray_it_is_the_same_to_the_byte(own: tuple[Path, Path, Path], tmp_path: Path) -> None:
    file, here, cache = own
    done = fusiondistill("run", str(file), "--store", str(tmp_path / "ray"), cache=cache)
    assert done.returncode == 0 and "Ray Train fit" in done.stdout, done.stdout + done.stderr
    assert contents(tmp_path / "ray", *RESULTS) == contents(here, *RESULTS) != {}
    files = {name.split("-")[0] for name in weights(here)}
    assert files == {"base", "expert", "fused", "mine"}
    assert [*weights(tmp_path / "ray").values()] and weights(tmp_path / "ray").keys() == weights(here).keys()
    assert counts(tmp_path / "ray") == counts(here)


def test_a_changed_loss_makes_new_what_uses_it_and_nothing_else(own: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, finished_store, cache = own
    folder, store = tmp_path / "plugins", tmp_path / "store"
    shutil.copytree(PLUGINS, folder)
    shutil.copytree(finished_store, store)
    file = tmp_path / "config.yaml"
    file.write_text(config(folder))
    before = {path.name for path in store.glob("*-*")}
    unchanged = fusiondistill("run", str(file), "--local", "--store", str(store), cache=cache)
    assert "nothing to do" in unchanged.stdout and "changed since" not in unchanged.stdout, unchanged.stderr
    loss = folder / "margin.py"
    loss.write_text(loss.read_text().replace(".mean()\n", ".mean() * 2\n"))
    said = r"plugin margin\.py changed since the run of \d{4}-\d\d-\d\d \d\d:\d\d: 4 stages are new\n"
    planned = fusiondistill("plan", str(file), "--store", str(store), cache=cache)
    assert re.search(said, planned.stdout), planned.stdout + planned.stderr
    done = fusiondistill("run", str(file), "--local", "--store", str(store), cache=cache)
    assert done.returncode == 0 and len(re.findall(said, done.stdout)) == 1, done.stdout + done.stderr
    made = {path.name for path in store.glob("*-*")} - before
    assert sorted(re.sub(r"-[0-9a-f]{16}$", "", name) for name in made) == [
        "evaluate-mine-blur", "evaluate-mine-fog", "mine", "validate-mine"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "new"),
    [
        ("by_accuracy", {"fused", "own-start", "mine"}),
        ("confident", {"own-vote"}),
        ("fog", {"expert-fog", "base", "expert-blur", "own-vote", "own-start", "mine", "fused"}),
        ("tiny", None),
        ("stripes", None),
    ],
)
def test_what_a_changed_file_makes_new(
    own: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, new: set[str] | None
) -> None:
    _, store, cache = own
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(cache))
    shutil.copytree(PLUGINS, tmp_path / "plugins")
    (tmp_path / "config.yaml").write_text(config(tmp_path / "plugins"))
    with (tmp_path / "plugins" / f"{file}.py").open("a") as changed:
        changed.write("# changed\n")
    prepared = prepare(str(tmp_path / "config.yaml"), (), str(store)).looked_up()
    missing = {stage.name for stage in prepared.missing}
    if new is None:
        assert len(prepared.missing) == len(prepared.plan.stages)
    else:
        trained = {name for name in missing if not name.startswith(("evaluate-", "validate-"))}
        judged = {re.sub(r"^(evaluate-(.*)-(fog|blur)|validate-(.*))$", r"\2\4", name) for name in missing - trained}
        assert trained | judged == new and "base" not in trained and "expert-blur" not in trained
    (line,) = map(str, changed_plugins(prepared))
    assert line.startswith(f"plugin {file}.py changed") and f"{len(prepared.missing)} stages are new" in line


def test_parameters_of_plugins_can_be_searched(own: tuple[Path, Path, Path]) -> None:
    search = """
search:
  of: mine
  trials: 2
  epochs: 1
  scheduler: none
  space: {start.power: {choice: [0.5, 3.0]}, loss.margin.width: {uniform: [0.5, 4.0]}}
"""
    text = config(PLUGINS).replace("methods: [base, oracle, own-start, own-vote, mine]", "methods: [mine]")
    _, store, _ = finished(text + search)
    (stage,) = stages(store, "search")
    trials = pq.read_table(next(stage.glob("trials.*.parquet"))).to_pylist()
    widths = {row["loss.margin.width"] for row in trials}
    powers = {row["start.power"] for row in trials}
    assert len(trials) == 2 and len(widths) == 2 and 2.0 in widths, "the first trial is the recipe as it stands"
    assert 2.0 in powers and powers <= {2.0, 0.5, 3.0}
    assert {m for m, *_ in counts(store)} >= {"mine", "mine-searched"}


BAD = """
from typing import Annotated
from pydantic import Field
from fusiondistill import LOSSES

@LOSSES.register("bad")
def bad(student, teacher, labels, *, width: Annotated[float, Field(gt=0)] = 1.0):
    "A line."
    return student.logits.float().mean() * width
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (BAD, "x = 1\n", "registers nothing: put a line like @fusiondistill.LOSSES.register"),
        ("*, width", "width", r"line 6 .*put a \* before width"),
        (": Annotated[float, Field(gt=0)] = 1.0", "=1.0", "line 6 .*parameter width .* needs a type"),
        ("Annotated[float, Field(gt=0)]", "float2", "needs a type that a config can hold.*'float2' is not defined"),
        ("] = 1.0", "] = -1.0", "has the default -1.0: Input should be greater than 0"),
        ("width", "weight", "parameter weight .* a config means something else by it"),
        ("student, teacher, labels", "student, labels", r"called with \(student, teacher, labels\), and takes"),
        ('"bad"', '"kd"', "there already is a loss term 'kd'"),
        ('"bad"', '"bad", needs="teacher"', "must be one of nothing, logits, features"),
        ('.register("bad")', ".register", r'a loss term needs a name: write .register\("bad"\)'),
        ("from typing", "import sys; sys.exit(3)\nfrom typing", "line 2 .*SystemExit: 3"),
    ],
)
def test_a_plugins_mistakes_are_lines_of_the_config(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(BAD.replace(old, new))
    mistake = only_mistake(lambda: config_file.parse(f"experiment: x\nplugins: [{tmp_path}/mine.py]\n"))
    assert mistake.line == 2 and mistake.key == "plugins.0" and "mine.py" in mistake.message
    assert re.search(message, mistake.message), mistake.message


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("plugins: nowhere.py\n", 2, "plugins.0", "there is no such file in /"),
        ("plugins: {nowhere.py: 1}\n", 2, "plugins", "must be a list"),
        ("plugins: [nowhere.py]\n", 2, "plugins.0", "there is no such file in /"),
        ("plugins: [P/fog.py, P/fog.py]\n", 2, "plugins.1", "two plugins are called fog.py"),
        ("degradations:\n  - blur\n  - {name: noise, levels: 0..90}\n", 4, "degradations.1.levels", "51 is none"),
        ("plugins: [P/fog.py]\ndegradations: [{name: fog, lihgt: 9}]\n", 3, "degradations.0.lihgt", "unknown key"),
        ("evaluation: {unseen: [{nam: haze}]}\n", 2, "evaluation.unseen.0.name", "is missing"),
        ("define: [a]\n", 2, "define", "must be a mapping of methods"),
        ("mine: {like: vanilla}\n", 2, "mine", "your own method stands below define: {mine: ...}"),
        ("base: {schedule: {factor: 0.5}}\n", 2, "base.schedule", "steps need milestones, like"),
        ("define:\n  a: {like: base, schedule: {name: steps}}\n", 3, "define.a.schedule", "name: constant has none"),
        ("search: {of: expert, space: {schedule.name: {choice: [steps]}}}\n", 2, "search.space.schedule.name",
         "the method's schedule has no milestones"),
    ],
)  # fmt: skip
def test_mistakes_of_a_person_in_a_hurry(text: str, line: int, key: str, message: str) -> None:
    mistake = only_mistake(lambda: config_file.parse("experiment: x\n" + text.replace("P/", f"{PLUGINS}/")))
    assert (mistake.line, mistake.key) == (line, key) and message in mistake.message, str(mistake)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("margin", "    own = ", "    own = labels / labels.nothing\n    own = ",
         r"plugin \S+margin\.py, line 14 \(own = labels / labels\.nothing\): AttributeError"),
        ("margin", "own).mean()", "own)", r"'margin' \(plugin \S+, line 11\) must be one number, not of"),
        ("by_accuracy", "return average(", "average(", r"by_accuracy\.py, line 10\) must return a state dict"),
        ("confident", "return MostConfident(", "return (", r"confident\.py, line 27\) must return an nn\.Module"),
        ("tiny", "nn.Linear(2 * width, classes)", "nn.Linear(2 * width, 7)", r"tiny must give logits .* not \[2, 7\]"),
        ("stripes", "yield Row(", "yield Row(1 / 0, ", r"stripes\.py, line \d+ \(yield Row.*ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_a_plugin_does_wrong_at_work_is_one_line(
    own: tuple[Path, Path, Path], tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    _, finished_store, cache = own
    shutil.copytree(PLUGINS, tmp_path / "plugins")
    shutil.copytree(finished_store, tmp_path / "store")
    (tmp_path / "config.yaml").write_text(config(tmp_path / "plugins"))
    path = tmp_path / "plugins" / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    line = ("run", str(tmp_path / "config.yaml"), "--local", "--store", str(tmp_path / "store"))
    done = fusiondistill(*line, cache=cache)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and "\n    ^" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
