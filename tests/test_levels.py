"""Degradations given as mappings: levels, ids and parameters of their own, from the file to the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from fusiondistill import DEGRADATIONS, degrade, evaluate, fit, load_images, load_model
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.config_file import ConfigError, parse
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import DegradationConfig, as_degradation
from fusiondistill.evaluation import mixed_batches, validate
from fusiondistill.level_draws import degraded, random_levels
from fusiondistill.randomness import key
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan, check_plan
from fusiondistill_runner.planning.specs import EvaluateSpec, MergeSpec, TrainSpec
from running import finished, fusiondistill, stages

LIGHT, HEAVY = "{name: blur, as: light, levels: 0..10}", "{name: blur, as: heavy, levels: [30, 40, 50]}"


def of(*items: str, **more: str) -> tuple[DegradationConfig, ...]:
    return parse(f"experiment: x\ndegradations: [{', '.join(items)}]\n").degradations


def plan(*overrides: str) -> Plan:
    levels: Callable[[str], range] = lambda name: DEGRADATIONS[name].levels  # noqa: E731
    return build(parse("experiment: x\n", overrides=overrides), "f" * 64, levels, test_images=400, size=(16, 16))


@pytest.mark.parametrize(
    ("item", "levels"),
    [
        ("blur", range(51)),
        ("{name: blur}", range(51)),
        ("{name: blur, levels: 0..50, as: blur}", range(51)),
        ("{name: jpeg, levels: null}", range(1, 102)),
        ("{name: blur, levels: 0..20}", range(21)),
        ("{name: blur, levels: ' 3 .. 4 '}", (3, 4)),
        ("{name: blur, levels: [10, 0, 5]}", (0, 5, 10)),
        ("{name: jpeg, levels: 101..101}", (101,)),
        ("{name: blur, levels: [7]}", (7,)),
    ],
)
def test_a_string_is_a_range_and_a_list_a_list(item: str, levels: Any) -> None:
    (found,) = of(item)
    assert tuple(found.every_level) == tuple(levels)
    again = parse(f"experiment: x\ndegradations: {json.dumps([found.model_dump(mode='json')])}\n").degradations
    assert again == (found,) and hash(again[0]) == hash(found)


@pytest.mark.parametrize(
    ("item", "key", "said"),
    [
        (
            "{name: blur, levels: 0..60}",
            ".levels",
            r"blur has the levels 0..50 \(sigma = level / 10 pixels\), and 51 is",
        ),
        ("{name: jpeg, as: low, levels: [0, 5]}", ".levels", "jpeg has the levels 1..101 .*, and 0 is none of them"),
        ("{name: blur, levels: -1..5}", ".levels", "-1 is none of them"),
        ("{name: blur, levels: []}", ".levels", "is empty: give a range like 0..20, or a list like"),
        ("{name: blur, levels: 9..3}", ".levels", "is empty: the lower level comes first, 3..9"),
        ("{name: blur, levels: [1.5]}", ".levels", "must be whole numbers, like .*, not 1.5"),
        ("{name: blur, levels: [true]}", ".levels", "must be whole numbers"),
        ("{name: blur, levels: ['3']}", ".levels", "must be whole numbers"),
        ("{name: blur, levels: [1, 2, 1]}", ".levels", "has 1 twice"),
        ("{name: blur, levels: 5}", ".levels", r"one level alone is \[5\]"),
        ("{name: blur, levels: 0.5..2}", ".levels", "must be a range like 0..20, .*, not '0.5..2'"),
        ("{name: blur, levels: 0-20}", ".levels", "must be a range like 0..20"),
        ("{name: blur, levels: {from: 0}}", ".levels", "must be a range like 0..20"),
        ("{name: blur, levels: 0..999999999}", ".levels", "more levels than any degradation"),
        ("{name: blur, as: noise}", ".as", "noise is the name of another degradation"),
        ("{name: blur, as: haze}", ".as", "haze is the name of another degradation"),
        ("{name: blur, as: Light-Blur}", ".as", "must be lower-case letters, digits and underscores"),
        ("{name: blur, as: ''}", ".as", "must be lower-case letters"),
        ("{name: blur, as: 5}", ".as", "should be text, not 5"),
        ("{name: blur, as: clean}", ".as", "clean has its own meaning"),
        ("{name: blur, as: jpeg}", ".as", "jpeg is given twice: give one of them its own id, like"),
        ("jpeg", "", "jpeg is given twice: give one of them its own id, like {name: jpeg, as: jpeg_2"),
        ("{name: jpeg, levels: 1..5}", "", "jpeg is given twice"),
        ("{name: blur, level: 5}", ".level", "unknown key; did you mean 'levels'"),
        ("{name: blur, width: 5}", ".width", "unknown key; known: name, as, levels"),
        ("{name: blurr, levels: 0..3}", ".name", "no degradation 'blurr'; did you mean 'blur'"),
        ("{as: x}", ".name", "is missing"),
        ("{blur: 0..5}", "", "must be a name, or have one: write {name: blur, levels: 0..5}"),
        ("7", "", "must be a name like blur, or a mapping like {name: blur, as: light, levels: 0..10}"),
        ("[blur]", "", "must be a name like blur, or a mapping"),
    ],
)
def test_bad_input_is_told_with_its_line_and_what_to_write(item: str, key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse(f"experiment: x\ndegradations:\n- jpeg\n- {item}\n")
    assert [(m.key, m.line) for m in caught.value.mistakes] == [(f"degradations.1{key}", 4)]


def test_unseen_ones_may_be_other_levels_of_what_is_trained() -> None:
    given = f"experiment: x\ndegradations: [{LIGHT}, noise]\nevaluation:\n  unseen:\n  - haze\n  - {{}}\n"
    config = parse(given.replace("{}", HEAVY))
    assert [one.id for one in config.evaluation.unseen] == ["haze", "heavy"]
    for item, said in (("{name: blur, as: light}", "light is one of the degradations that"), ("haze", "haze is given")):
        with pytest.raises(ConfigError, match=rf"line 6: evaluation\.unseen\.1(\.as)?: {said}"):
            parse(given.replace("{}", item))


def test_ids_name_checkpoints_and_weights_and_keep_methods_apart(tmp_path: Path) -> None:
    start = f"experiment: x\ndegradations: [{LIGHT}, {HEAVY}]\n"
    torch.save({"weight": torch.ones(1)}, tmp_path / "light.pt")
    parse(f"{start}expert: {{checkpoint: {{light: {tmp_path}/light.pt}}}}\n")
    with pytest.raises(ConfigError, match="is none of the degradations; known: light, heavy"):
        parse(f"{start}expert: {{checkpoint: {{blur: {tmp_path}/light.pt}}}}\n")
    with pytest.raises(ConfigError, match="is the name of a network of expert"):
        parse(f"{start}define: {{expert-light: {{like: fusing}}}}\n")
    parse(f"{start}modelsoups: {{start: {{merge: linear, weights: {{light: 1, heavy: 2}}}}}}\n")


def digests(content: Plan) -> dict[str, str]:
    return {stage.name: stage.digest for stage in content.stages}


def test_plain_names_keep_their_digests_and_ids_name_experts() -> None:
    assert digests(plan("degradations=[jpeg, {name: blur, levels: 0..50}]")) == digests(
        plan("degradations=[jpeg, blur]")
    )
    content = plan(f"degradations=[{LIGHT}, {HEAVY}]")
    specs = {stage.name: stage.spec for stage in content.stages}
    assert {"expert-light", "expert-heavy"} <= specs.keys()
    heavy = specs["expert-heavy"]
    assert isinstance(heavy, TrainSpec) and heavy.degradations[0].levels == (30, 40, 50)
    assert heavy.digested()["degradations"] == [{"name": "blur", "as": "heavy", "levels": [30, 40, 50]}]
    assert dict(heavy.entries())["degradations"] == "blur"
    levels = {(row.method, row.degradation): row.stage.spec.levels for row in content.rows}  # type: ignore[union-attr]
    assert levels["base", "light"] == tuple(range(11)) and levels["oracle", "heavy"] == (30, 40, 50)
    every = plan(f"degradations=[{LIGHT}, {HEAVY}]", "evaluation.every=2").rows
    assert {r.stage.spec.levels for r in every if r.degradation == "heavy"} == {(30, 50)}  # type: ignore[union-attr]
    fused = next(stage for stage in content.stages if stage.name == "fused")
    assert [*fused.inputs] == ["base", "expert-light", "expert-heavy"] and isinstance(fused.spec, MergeSpec)


def test_the_id_of_a_column_changes_no_count() -> None:
    one, other = (plan("methods=[base]", f"degradations=[{item}]") for item in ("blur", "{name: blur, as: mine}"))
    # Levels of a validation are drawn by id.
    digests = [[stage.digest for stage in of.stages if stage.kind != "validate"] for of in (one, other)]
    assert digests[0] == digests[1]
    assert [row.degradation for row in other.rows] == ["mine"]
    assert other.describe()["degradations"]["mine"]["name"] == "blur" and other.describe()["size"] == [16, 16]
    told = plan("methods=[modelsoups-told]", f"degradations=[{LIGHT}, {HEAVY}]")
    assert {s.spec.told for s in told.stages if isinstance(s.spec, MergeSpec)} == {"light", "heavy"}


@pytest.mark.parametrize("damage", [[1], {"light": 3}, {"light": {"name": "blur"}}, {"light": {"listed": ["a"]}}])
def test_a_noted_plan_whose_degradations_are_damaged_is_refused(damage: Any) -> None:
    content = plan("methods=[base]", f"degradations=[{LIGHT}]").describe()
    check_plan(content, "x", "plans/x.json")
    if isinstance(damage, dict) and isinstance(damage["light"], dict):
        damage = {"light": {**content["degradations"]["light"], "means": None, **damage["light"]}}
    with pytest.raises(CheckpointError, match="are not the degradations of a plan"):
        check_plan({**content, "degradations": damage}, "x", "plans/x.json")


def test_training_draws_evenly_from_the_levels_that_are_given() -> None:
    light, heavy = of(LIGHT, HEAVY)
    indices = torch.arange(6000)
    counts = Counter(random_levels(heavy, key(1, "x"), indices).tolist())
    assert counts.keys() == {30, 40, 50} and all(abs(count - 2000) < 150 for count in counts.values())
    counts = Counter(random_levels(light, key(1, "x"), indices).tolist())
    assert counts.keys() == set(range(11)) and all(abs(count - 6000 / 11) < 100 for count in counts.values())
    jpeg = random_levels("jpeg", key(1, "x"), indices)
    assert (jpeg.min(), jpeg.max()) == (1, 101)
    assert torch.equal(random_levels(as_degradation("jpeg"), key(1, "x"), indices), jpeg)


def test_two_ids_of_one_degradation_have_noise_of_their_own(tiny: Callable[..., ImageSet]) -> None:
    images, indices = tiny(8).images, torch.arange(8)
    levels = torch.full((8,), 20)
    drawn = [
        degraded(images, one, levels, seed=3, indices=indices, protocol="standard")
        for one in ("noise", as_degradation({"name": "noise", "as": "mine"}))
    ]
    assert torch.equal(drawn[0], degrade(images, "noise", 20, seed=3)) and not torch.equal(*drawn)


def test_validation_and_mixtures_take_the_levels(tiny: Callable[..., ImageSet]) -> None:
    images = tiny(12)
    (clean,) = of("{name: blur, as: none, levels: [0]}")
    settings: dict[str, Any] = {"seed": 1, "device": torch.device("cpu"), "protocol": "standard"}
    (batch, labels), *_ = mixed_batches(images, [clean], **settings)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (images.mean, images.std))
    assert torch.allclose(batch, (images.images - mean) / std) and torch.equal(labels, images.labels)
    seen: list[torch.Tensor] = []

    class Watcher(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return torch.zeros(len(x), 3)

    assert [*validate(Watcher(), images, [clean, "blur"], **settings)] == ["none", "blur"]
    assert torch.allclose(seen[0], batch) and not torch.allclose(seen[1], batch)


def test_parameters_of_a_plugins_degradation_stand_beside_its_levels(tmp_path: Path) -> None:
    file = tmp_path / "shade.py"
    file.write_text(
        "from typing import Annotated\n"
        "from pydantic import Field\n"
        "from fusiondistill import DEGRADATIONS\n"
        "@DEGRADATIONS.register('shade', range(0, 6), means='tens of 255 less')\n"
        "def shade(images, levels, *, step: Annotated[int, Field(ge=1)] = 10):\n"
        "    'Lose some light per level.'\n"
        "    return (images.int() - step * levels.view(-1, 1, 1, 1)).clamp(0, 255).to(images.dtype)\n"
    )
    start = f"experiment: x\nplugins: [{file}]\ndegradations:\n"
    config = parse(start + "- {name: shade, levels: [0, 5], step: 7}\n- {name: shade, as: plain}\n")
    one, plain = config.degradations
    assert one.parameters == {"step": 7} and plain.model_dump() == {"name": "shade", "as": "plain", "step": 10}
    images = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    settings: dict[str, Any] = {"seed": 0, "indices": torch.arange(1), "protocol": "standard"}
    assert int(degraded(images, one, torch.tensor([5]), **settings).max()) == 165
    content = build(config, "f" * 64, lambda name: DEGRADATIONS[name].levels, test_images=400)
    specs = {row.degradation: row.stage.spec for row in content.rows}
    assert isinstance(specs["shade"], EvaluateSpec) and specs["shade"].settings == {"step": 7}
    assert content.describe()["degradations"]["shade"] == {
        "name": "shade", "means": "tens of 255 less", "said": "0, 5", "listed": [0, 5],
    }  # fmt: skip
    for wrong, said in (("step: 0", r"line 4: degradations\.0\.step"), ("stop: 1", "did you mean 'step'")):
        with pytest.raises(ConfigError, match=said):
            parse(f"{start}- {{name: shade, {wrong}}}\n")


def test_fit_takes_what_a_config_takes() -> None:
    images = load_images("digits", "train").take(40)
    given = [{"name": "blur", "as": "light", "levels": "0..10"}, {"name": "blur", "as": "heavy", "levels": [40, 50]}]
    fitted = fit({"epochs": 1, "batch_size": 20}, images, model="cifar_resnet8", degradations=given, seed=1)
    assert {"validation_light", "validation_heavy"} <= fitted.rows[0].keys()
    with pytest.raises(ValueError, match="51 is none of them"):
        fit({"epochs": 1}, images, degradations=[{"name": "blur", "levels": "0..60"}])


CONFIG = """
experiment: two-blurs
data: {name: digits, train_images: 60, test_images: 30}
model: {name: cifar_resnet8}
degradations:
- {name: blur, as: light, levels: 0..10}
- {name: blur, as: heavy, levels: [30, 35, 40, 50]}
methods: [base, oracle, ensemble, modelsoups, fusiondistill]
base: {epochs: 1, batch_size: 30}
expert: {epochs: 1, batch_size: 30}
fusiondistill: {epochs: 1, batch_size: 30}
evaluation: {every: 3, unseen: [{name: noise, as: grain, levels: [10, 20]}]}
"""


def test_a_whole_run_with_two_blurs_has_the_right_levels_everywhere(tmp_path: Path) -> None:
    config, store, cache = finished(CONFIG)
    table = pq.read_table(store / "results.parquet").to_pylist()
    found: dict[tuple[str, str], list[int]] = {}
    for row in table:
        found.setdefault((row["method"], row["degradation"]), []).append(row["level"])
    assert found["base", "light"] == [0, 3, 6, 9, 10] and found["expert-light", "heavy"] == [30, 50]
    assert found["fusiondistill", "heavy"] == [30, 50] and found["ensemble", "grain"] == [10, 20]
    assert {d for _, d in found} == {"light", "heavy", "grain"}
    (expert,) = stages(store, "expert-heavy")
    images = load_images("digits", "test").take(30)
    right, _ = evaluate(load_model(expert), images, "blur", [30, 50], seed=123, batch_size=30)
    own = {row["level"]: row["right"] for row in table if (row["method"], row["degradation"]) == ("oracle", "heavy")}
    assert own == dict(zip((30, 50), right.tolist(), strict=True))
    metrics = pq.read_table(next((expert).glob("metrics.*.parquet"))).column_names
    assert "validation_heavy" in metrics
    page = (store / "report" / "index.html").read_text()
    caption = (store / "report" / "table.md").read_text()
    for text in (page, caption):
        assert "on images of 16 x 16 pixels" in text
        assert "Light (blur, levels 0..10) sigma = level / 10 pixels" in text
        assert "Heavy (blur, levels 30, 35, 40, 50) sigma = level / 10 pixels" in text
        assert "Heavy 2 of 4" in text
    assert "Grain (noise, levels 10, 20) sigma = level, of 255" in page
    # the table's mean over a list is over that list: half of 30..35..40..50 is interpolated on 35 and 40
    heavy = {
        row["level"]: row["right"] / 30 for row in table if (row["method"], row["degradation"]) == ("base", "heavy")
    }
    mean = sum(heavy[30] + (heavy[50] - heavy[30]) * (level - 30) / 20 for level in (30, 35, 40, 50)) / 4
    line = next(line for line in caption.splitlines() if line.startswith("| Base |"))
    assert f"{100 * mean:.1f}" in line
    done = fusiondistill("status", str(store), cache=cache)
    assert done.returncode == 0 and "expert-heavy" in fusiondistill("plan", str(config), cache=cache).stdout
    judged = ("evaluate", str(expert), "--data", "digits", "--images", "30", "--local", "--store", str(tmp_path / "j"))
    done = fusiondistill(*judged, "--degradation", "{name: blur, as: far, levels: [30, 50]}", cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "j" / "results.parquet").to_pylist()
    assert {row["degradation"]: row["level"] for row in rows}.keys() == {"far"}
    assert {row["level"]: row["right"] for row in rows} == own
