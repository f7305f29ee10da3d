"""``init``: from a folder of images and a time to a config that runs, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fusiondistill import config_file
from fusiondistill.methods import FEW_ROWS
from fusiondistill_runner.cli import main
from fusiondistill_runner.forecasting import first_config
from fusiondistill_runner.forecasting.drafts import Draft
from fusiondistill_runner.forecasting.wishes import Wish, seconds_of
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import TrainSpec


def a_folder(root: Path, counts: dict[str, int], side: int = 16) -> Path:
    """Images of random pixels, so many for each class, of two sizes."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (side + number % 2, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A config for a folder of uneven classes, and what was said."""
    place, said = tmp_path_factory.mktemp("init"), list[str]()
    photos = a_folder(place / "2024", {"cat": 24, "dog": 6})
    wish = Wish(str(photos), "4m", str(place / "mine.yaml"), degradations=("noise", "saltpepper"))
    return first_config.first_config(wish, said.append, seconds=0.01), said


def test_the_file_is_valid_planned_and_explained(written: tuple[Path, list[str]]) -> None:
    path, said = written
    for command in (["validate", str(path)], ["plan", str(path)]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert "measured on this machine" in done.output and "unknown" not in done.output
    lines = path.read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert lines[0] == f"# fusiondistill run {path} --local" and any("30 images of 2 classes" in one for one in header)
    assert any("--budget 4m" in line for line in header) and any("measured on 20" in line for line in header)
    bare = [n for n, line in enumerate(lines) if "#" not in line and line and "#" not in lines[n - 1]]
    searched = {"trials", "epochs", "space", "loss.ce", "loss.feature", "loss.kd", "loss.kd.temperature"}
    assert {lines[n].split(":")[0].strip() for n in bare} <= {"experiment", "data", *searched}
    assert any("measuring steps of cifar_resnet" in text for text in said) and str(path) in said[-1]


@pytest.mark.parametrize("methods", [FEW_ROWS, ()])
def test_it_has_a_section_for_each_training_of_its_rows_and_for_no_other(methods: tuple[str, ...]) -> None:
    draft = Draft("mine", {"name": "digits"}, "cifar_resnet8", methods=methods)
    config = config_file.parse(draft.text())
    stages = build(config, "f" * 64, lambda _: range(9)).stages
    assert set(draft.trained) == {s.name.partition("-")[0] for s in stages if isinstance(s.spec, TrainSpec)}


def test_the_schedules_have_the_recipes_proportions_and_fit(written: tuple[Path, list[str]]) -> None:
    config = config_file.load(str(written[0]))
    assert config.seeds == (0,) and (config.experiment, config.data.root) == ("2024", str(written[0].parent / "2024"))
    assert [one.id for one in config.degradations] == ["noise", "saltpepper"]
    assert (config.data.size, config.data.test, config.data.validation) == ((16, 16), 0.2, 0.1)
    base, rest = config.table["base"].epochs, ("expert", "fusing", "fusiondistill")
    assert all(abs(2 * config.table[name].epochs - base) <= 1 for name in rest)
    assert config.table["vanilla"].epochs == base
    sampled = {config.table[name].sampling for name in ("base", *rest)}
    assert sampled == {"balanced"}  # four times as many cats as dogs


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("1h30m", 5400), ("2d", 172800), ("1.5 H", 5400)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--budget", "soon"], "a budget of 'soon' is no time: write it like 90s"),
        (["photos", "--budget", "0s"], "is no time"),
        (["photos", "--budget", "30m1h"], "is no time"),
        (["photos", "--out", "there.yaml"], "there.yaml: a file is there already: give another name, or --force"),
        (["photos", "--out", "no/such.yaml"], "there is no folder"),
        (["photos", "--out", "new.txt"], "a config is a .yaml file"),
        (["photos", "--model", "resnet19"], "--model resnet19: no network 'resnet19'"),
        (["photos", "--degradation", "fog"], "--degradation fog: no degradation 'fog'"),
        (["nowhere"], "nowhere: there is no such file, folder or data set"),
        (["empty"], "empty"),
        (["one"], "one class"),
    ],
)
def test_what_cannot_be_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    a_folder(tmp_path / "photos", {"a": 4, "b": 4})
    a_folder(tmp_path / "one", {"a": 4})
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.yaml").write_text("mine")
    done = CliRunner().invoke(main, ["init", *arguments])
    assert done.exit_code == 2 and message in done.output, done.output
    assert "measuring" not in done.output and (tmp_path / "there.yaml").read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*.y*ml")] == ["there.yaml"]


def test_a_budget_that_is_too_small_says_the_least_that_would_do(written: tuple[Path, list[str]]) -> None:
    out = written[0].with_name("small.yaml")
    wish = Wish(str(written[0].parent / "2024"), "2s", str(out), degradations=("noise", "saltpepper"))
    with pytest.raises(
        ValueError, match=r"one epoch of everything \(cifar_resnet8, evaluation.every: 25\) takes about"
    ):
        first_config.first_config(wish, lambda text: None, seconds=0.01)
    assert not out.exists()
