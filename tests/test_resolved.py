"""What `validate --show` prints is a config that makes the same stages, under the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fusiondistill import config_file
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.resolved import resolved, resolved_text
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.plan import build

ODD = """
experiment: odd
protocol: paper
recipe: paper-cifar100
seeds: 0..1
data: {name: digits, size: 16, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}
degradations: [jpeg, {name: blur, as: light, levels: 0..10}, {name: noise, levels: [0, 5]}]
methods: [base, mine, told, both, modelsoups]
base: {class_weights: {"1e3": 2, "010": 1, "yes": 3}, optimizer: adamw, cutout: null}
define:
  mine: {like: fusiondistill, title: "1e3", start: {merge: ties, of: expert}, loss: {feature: 0, dkd: 0.5}, teachers: expert}
  told: {like: modelsoups-told, description: "caf\\u00e9: a # b"}
  both: {of: expert, inference: soft_vote}
"""  # noqa: E501
SEARCHES = """
experiment: searches
model: resnet18
methods: [fusiondistill, fusing]
search:
- {trials: 3, space: {start.merge: {choice: [average, ties]}, start.density: {uniform: [0.1, 1]}}}
- {of: fusing, epochs: 2, space: {optimizer: {lr: {loguniform: [1e-3, 1e-1]}}}}
sweep: {data.name: [digits, cifar100], protocol_of: {a: {select: last}, b: {fusing.epochs: 3}}}
"""


def digests(config: config_file.Config) -> list[tuple[str, str]]:
    plan = build(config, f"fingerprint of {config.data.name}", lambda name: DEGRADATIONS[name].levels)
    return [(stage.directory, stage.digest) for stage in plan.stages]


@pytest.mark.parametrize("name", ["quickstart", "cifar100", "paper_sweep", "odd", "searches"])
def test_the_resolved_config_makes_the_same_stages(name: str) -> None:
    text = {"odd": ODD, "searches": SEARCHES}.get(name) or config_file.find(name).read_text()
    _, points = config_file.parse_points(text, overrides=["seeds=[3]"] if name == "paper_sweep" else [])
    documents = resolved_text("x.yaml", points, ["two\nlines"]).split("---\n")
    assert len(documents) == len(points)
    for point, document in zip(points, documents, strict=True):
        again = config_file.parse(document)
        assert again.experiment == point.experiment
        assert digests(again) == digests(point)
        assert resolved(again) == resolved(point)
        assert again.select and again.recipe and again.resources.threads


def test_show_is_yaml_and_nothing_else(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["validate", "quickstart", "--show", "--set", "base.epochs=3"])
    assert said.exit_code == 0, said.output
    (tmp_path / "all.yaml").write_text(said.output)
    again, asked = config_file.load(str(tmp_path / "all.yaml")), config_file.load("quickstart", ["base.epochs=3"])
    assert digests(again) == digests(asked) and again.table["base"].epochs == 3
