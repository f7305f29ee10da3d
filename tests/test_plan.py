"""The graph of stages: what a digest depends on, what is shared, and what METHOD says of both protocols."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fusiondistill import save_checkpoint
from fusiondistill.config import ModelConfig
from fusiondistill.config_file import ConfigError, parse, parse_points
from fusiondistill.methods import DEFAULT_ROWS as METHODS
from fusiondistill_runner.planning.plan import build, build_evaluation
from fusiondistill_runner.planning.rows import Plan, union
from fusiondistill_runner.planning.specs import CheckpointSpec, EvaluateSpec, MergeSpec, SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage, ancestors, priorities
from fusiondistill_runner.planning.trials import as_it_stands, chosen_start, trial_stage

LEVELS = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
FOUR = tuple(LEVELS)
SEARCH = "search={trials: 4, space: {loss.kd: {uniform: [0, 1]}}}"


def plan(
    *overrides: str, fingerprint: str = "f" * 64, levels: Callable[[str], range] = LEVELS.get, **other: Any
) -> Plan:  # type: ignore[assignment]
    return build(parse("experiment: x\n", overrides=overrides), fingerprint, levels, **{"test_images": 400, **other})


def named(content: Plan, name: str, seed: int = 0) -> Stage:
    (stage,) = [s for s in content.stages if (s.name, s.seed) == (name, seed)]
    return stage


def digests(content: Plan) -> dict[tuple[str, int], str]:
    """Those of all stages but validations, which tests/test_best.py looks at."""
    return {(s.name, s.seed): s.digest for s in content.stages if s.kind != "validate"}


def changed(*overrides: str, before: tuple[str, ...] = (), **other: Any) -> set[str]:
    """Names of the stages whose digest an override changes; all others are there before and after."""
    one, two = digests(plan(*before)), digests(plan(*before, *overrides, **other))
    assert one.keys() == two.keys()
    return {name for name, seed in one if one[name, seed] != two[name, seed]}


ALL = {name for name, _ in digests(plan())}
TRAINED = {name for name in ALL if not name.startswith("evaluate")}


@pytest.mark.parametrize(
    "override",
    [
        "data={name: digits, root: /elsewhere}", "evaluation.batch_size=7", "resources.cpus_per_worker=1.5",
        "resources.workers=3",
        "resources.gpus_per_worker=0.5", "resources.group_size=2", "experiment=y", "base.checkpoint=null",
        "data.validation=0.1", "select=validation", "fusion.recalibrate=mixed", "fusiondistill.pairing=independent",
        "resources.threads=1", "base.epochs=200", "base.resized_crop=null",
        "base={resized_crop: null, resized_crop_ratio: [0.5, 1]}",
        "base.class_weights=none", "base.sampling=uniform", "base.ema=0", "base.optimizer.nesterov=false",
        "vanilla.loss.ce.label_smoothing=0", "expert.schedule={name: cosine, by: epoch, warmup: 0}",
    ],
)  # fmt: skip
def test_where_it_runs_and_defaults_spelled_out_change_no_digest(override: str) -> None:
    assert changed(override) == set()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("protocol=paper", ALL),
        ("data.name=cifar10", ALL),
        ("data.train_images=100", ALL),
        ("data.validation=0.2", ALL),
        ("data.flip=false", ALL),
        ("model.name=cifar_resnet8", ALL),
        ("resources.threads=2", ALL),
        ("resources.workers_per_run=2", ALL),
        ("select=last", ALL),
        ("base.epochs=7", {name for name in ALL if "scratch" not in name}),
        ("scratch.optimizer.lr=0.2", {name for name in ALL if "scratch" in name}),
        ("vanilla.precision=bf16", {name for name in ALL if "vanilla" in name}),
        ("fusing.compile=true", {name for name in ALL if "fusing" in name}),
        ("fusing.resized_crop=[0.3, 1]", {name for name in ALL if "fusing" in name}),
        ("fusing.class_weights=balanced", {name for name in ALL if "fusing" in name}),
        ("fusing.class_weights={a: 2}", {name for name in ALL if "fusing" in name}),
        ("fusing.sampling=balanced", {name for name in ALL if "fusing" in name}),
        ("fusing.ema=0.9", {name for name in ALL if "fusing" in name}),
        ("fusing.loss.ce.label_smoothing=0.1", {name for name in ALL if "fusing" in name}),
        ("scratch.optimizer.nesterov=true", {name for name in ALL if "scratch" in name}),
        ("scratch.schedule={name: cosine, by: step}", {name for name in ALL if "scratch" in name}),
        ("fusing.cutout=3", {name for name in ALL if "fusing" in name}),
        ("fusiondistill.loss.kd=1", {name for name in ALL if "fusiondistill" in name}),
        ("fusiondistill.teacher_view=degraded", {name for name in ALL if "fusiondistill" in name}),
        (
            "fusion.recalibrate=none",
            {n for n in ALL if any(p in n for p in ("fused", "modelsoups", "fusing", "distill"))},
        ),
        ("evaluation.every=2", ALL - TRAINED),
        ("evaluation.seed=5", ALL - TRAINED),
        ("data.test_images=100", ALL - TRAINED),
    ],
)
def test_what_can_change_a_result_changes_the_digest_of_what_it_touches(override: str, expected: set[str]) -> None:
    assert changed(override) == expected


def test_beside_a_resized_crop_the_padded_one_is_not_digested() -> None:
    resized = ("fusing.resized_crop=[0.3, 1]",)
    assert changed("fusing.crop_padding=0", before=resized) == set()
    assert changed("fusing.resized_crop_ratio=[0.5, 2]", before=resized) == {name for name in ALL if "fusing" in name}


def test_data_levels_plugins_and_seeds_are_part_of_it_too() -> None:
    assert changed(fingerprint="0" * 64) == ALL
    wider = {**LEVELS, "blur": range(52)}
    assert changed(levels=wider.get) == {name for name in ALL if name.startswith("evaluate") and name.endswith("blur")}
    one, two = digests(plan("seeds=[0]")), digests(plan("seeds=[0, 1]"))
    assert all(two[key] == digest for key, digest in one.items()) and len(two) == 2 * len(one)
    assert len(set(two.values())) == len(two)
    paper = ("protocol=paper",)
    assert changed("data.test_images=50", before=paper) == ALL  # there the epoch is chosen on the test split


def test_a_search_depends_on_its_settings_and_is_told_apart() -> None:
    before = (SEARCH,)
    searched = {
        "search-fusiondistill",
        "fusiondistill-searched",
        *(f"evaluate-fusiondistill-searched-{d}" for d in FOUR),
    }
    for override in ("search.trials=5", "search.epochs=3", "search.scheduler=none", "search.space.loss.kd=null"):
        if "space" in override:
            override = "search.space={loss.kd: {uniform: [0, 2]}}"
        assert changed(override, before=before) == searched
    content = plan(SEARCH, "search.epochs=3", "resources.workers_per_run=2", "select=last")
    search, distilled = named(content, "search-fusiondistill"), named(content, "fusiondistill")
    assert isinstance(search.spec, SearchSpec) and isinstance(distilled.spec, TrainSpec)
    assert (search.spec.train.recipe.epochs, search.spec.train.world_size) == (3, 1)
    assert search.spec.train.select == "validation" and distilled.spec.select == "last"
    winner = named(content, "fusiondistill-searched")
    assert winner.spec == distilled.spec and winner.inputs["search"] is search and winner.digest != distilled.digest
    trial = trial_stage(search, {})
    assert trial.kind == "train" and trial.inputs == search.inputs and trial.digest != distilled.digest
    everything = plan()
    assert all(digests(plan(SEARCH))[key] == digest for key, digest in digests(everything).items())


def test_a_trial_of_a_searched_merge_starts_from_a_stage_like_any_other() -> None:
    space = "loss.kd: {uniform: [0, 1]}, start.merge: {choice: [median, ties]}, start.density: {uniform: [0.1, 1]}"
    space = f"search.space={{{space}}}"
    content = plan(SEARCH, space)
    search, winner = named(content, "search-fusiondistill"), named(content, "fusiondistill-searched")
    plain = search.inputs["start"]
    assert winner.inputs["start"] is plain and plain.name == "fused"
    assert as_it_stands(search) == {"loss.kd": 0.0, "start.merge": "average", "start.density": 0.2}
    trial = trial_stage(search, {"loss.kd": 0.3, "start.merge": "ties", "start.density": 0.7})
    ties = trial.inputs["start"]
    assert isinstance(ties.spec, MergeSpec) and isinstance(plain.spec, MergeSpec) and ties.inputs == plain.inputs
    assert ties.spec == plain.spec.model_copy(update={"merge": "ties", "parameters": {"density": 0.7}})
    assert set(trial.inputs) == {"start", *(f"teacher-{d}" for d in FOUR)}
    planned = named(plan("modelsoups.start={merge: ties, density: 0.7}"), "fused")
    assert ties.digest == planned.digest and ties.directory == planned.directory
    narrow = named(plan(SEARCH), "search-fusiondistill")
    same = {"loss.kd": 0.3, "start.merge": "average", "start.density": 0.9}  # the average has no density
    assert trial_stage(search, same).digest == trial_stage(narrow, {"loss.kd": 0.3}).digest  # from another space
    chosen = chosen_start(plain, {"start.recalibrate": "none"})
    assert chosen.digest == named(plan("modelsoups.start={merge: average, recalibrate: none}"), "fused").digest
    assert digests(plan())[("fusiondistill", 0)] == digests(content)[("fusiondistill", 0)]


def test_repeats_of_a_candidate_differ_in_what_they_draw_only() -> None:
    search = named(plan(SEARCH, "search.seeds=3"), "search-fusiondistill")
    trials = [trial_stage(search, {"loss.kd": 0.3}, repeat) for repeat in range(3)]
    seeds = [trial.spec.data_seed for trial in trials if isinstance(trial.spec, TrainSpec)]
    assert len(set(seeds)) == 3 and seeds[0] == 0 and len({trial.seed for trial in trials}) == 1
    assert trials[0].digest == trial_stage(named(plan(SEARCH), "search-fusiondistill"), {"loss.kd": 0.3}).digest
    assert len({str(trial.spec.model_copy(update={"data_seed": 0})) for trial in trials}) == 1


def test_methods_share_what_they_rest_on_and_only_that_is_planned() -> None:
    whole = digests(plan(SEARCH))
    for method in METHODS:
        content = plan(SEARCH, f"methods=[{method}]")
        own = digests(content)
        assert all(whole[key] == digest for key, digest in own.items())
        needed = {s.digest for row in content.rows for s in ancestors(row.stage)}
        assert set(own.values()) == needed
    only = {s.name for s in plan("methods=[scratch]").stages}
    assert only == {"scratch", "validate-scratch", *(f"evaluate-scratch-{d}" for d in FOUR)}
    assert [s.kind for s in plan().stages].count("train") == 1 + 4 + 4  # base, experts, and the four trained rows
    reordered = plan("methods=[fusiondistill, modelsoups, base, oracle, ensemble, scratch, vanilla, fusing]")
    assert digests(reordered) == digests(plan())


def test_inputs_come_before_what_uses_them() -> None:
    content = plan(SEARCH, "seeds=[3, 1]", "fusion.recalibrate=per_degradation")
    seen: set[str] = set()
    for stage in content.stages:
        assert {needed.digest for needed in stage.inputs.values()} <= seen
        seen.add(stage.digest)
    assert len({s.directory for s in content.stages}) == len(content.stages)
    assert all(s.directory == f"{s.name}-{s.digest[:16]}" for s in content.stages)
    for stage in content.stages:
        for needed in stage.inputs.values():
            assert needed.seed == stage.seed


def test_every_method_has_its_rows() -> None:
    content = plan(SEARCH, "seeds=[0, 1]", "fusion.recalibrate=per_degradation")
    methods = {*METHODS, *(f"expert-{d}" for d in FOUR), "modelsoups-told", "fusiondistill-searched"}
    rows = [(row.method, row.seed, row.degradation) for row in content.rows]
    assert sorted(rows) == sorted((m, s, d) for m in methods for s in (0, 1) for d in FOUR)
    for row in content.rows:
        spec = row.stage.spec
        assert isinstance(spec, EvaluateSpec) and (spec.degradation, row.stage.seed) == (row.degradation, row.seed)
        assert spec.levels == tuple(LEVELS[row.degradation]) and row.stage in content.stages
        if row.method == "oracle":
            assert row.stage.name == f"evaluate-expert-{row.degradation}-{row.degradation}" and spec.inference is None
            assert row.stage.inputs["model"].name == f"expert-{row.degradation}"
        if row.method == "modelsoups-told":
            fused = row.stage.inputs["model"].spec
            assert isinstance(fused, MergeSpec) and fused.told == row.degradation and fused.recalibrate == "mixed"
    assert len(named(content, "evaluate-ensemble-blur").inputs) == 4
    few = plan("evaluation.expert_matrix=false", "evaluation.every=25")
    assert {(r.method, r.degradation) for r in few.rows if r.method.startswith("expert")} == {
        (f"expert-{d}", d) for d in FOUR
    }
    spec = named(few, "evaluate-base-jpeg").spec
    assert isinstance(spec, EvaluateSpec) and spec.levels == (1, 26, 51, 76, 101)


def test_the_graph_is_the_methods() -> None:
    content = plan()
    names = lambda stage: {role: needed.name for role, needed in stage.inputs.items()}  # noqa: E731
    experts = {d: f"expert-{d}" for d in FOUR}
    assert names(named(content, "base")) == names(named(content, "scratch")) == {}
    assert names(named(content, "expert-blur")) == {"start": "base", "teacher-blur": "base"}
    assert names(named(content, "fused")) == {"base": "base", **{f"expert-{d}": e for d, e in experts.items()}}
    assert names(named(content, "vanilla")) == {"start": "base"} and names(named(content, "fusing")) == {
        "start": "fused"
    }
    teachers = {f"teacher-{d}": e for d, e in experts.items()}
    assert names(named(content, "fusiondistill")) == {"start": "fused", **teachers}


@pytest.mark.parametrize(
    ("protocol", "pairing", "recalibrate", "select", "held_out", "data_seeds"),
    [("standard", "independent", "mixed", "validation", 0.1, {4, 9}), ("paper", "same", "none", "test", 0.0, {123})],
)
def test_protocols(
    protocol: str, pairing: str, recalibrate: str, select: str, held_out: float, data_seeds: set[int]
) -> None:
    content = plan(f"protocol={protocol}", "seeds=[4, 9]")
    trained = [s.spec for s in content.stages if isinstance(s.spec, TrainSpec)]
    assert {(s.recipe.pairing, s.select, s.protocol, s.data.held_out) for s in trained} == {
        (pairing, select, protocol, held_out)
    }
    assert {s.data_seed for s in trained} == data_seeds
    assert {s.data.holdout_seed for s in trained} == ({4, 9} if held_out else {0})
    fused = named(content, "fused", 4).spec
    assert isinstance(fused, MergeSpec) and fused.recalibrate == recalibrate
    assert named(content, "base", 4).digest != named(content, "base", 9).digest
    assert {s.spec.protocol for s in content.stages if isinstance(s.spec, EvaluateSpec)} == {protocol}


def test_a_checkpoint_stands_for_a_stage(tmp_path: Path) -> None:
    """Known by its content: neither the path nor the form it lies in matters."""
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_checkpoint(tmp_path / name, {"w": torch.full((2,), value)}, {})
        (weights,) = (tmp_path / name).glob("*.safetensors")
        (tmp_path / f"{name}.safetensors").write_bytes(weights.read_bytes())
    content = plan(f"base.checkpoint={tmp_path}/a")
    base = named(content, "base")
    assert base.kind == "import" and not base.inputs and named(content, "expert-jpeg").inputs["start"] is base
    one = digests(content)
    for same in ("b", "a.safetensors", "b/manifest.json"):
        assert digests(plan(f"base.checkpoint={tmp_path}/{same}")) == one
    other = digests(plan(f"base.checkpoint={tmp_path}/c"))
    assert {name for name, seed in one if one[name, seed] != other[name, seed]} == {
        n for n in ALL if "scratch" not in n
    }
    some = plan(f"expert.checkpoint={{blur: {tmp_path}/c}}")
    assert [named(some, f"expert-{d}").kind for d in FOUR] == ["train", "import", "train", "train"]
    (tmp_path / "jpeg-5").symlink_to(tmp_path / "a")
    only = plan(f"expert.checkpoint={tmp_path}/{{degradation}}-{{seed}}", "degradations=[jpeg]", "seeds=[5]")
    assert named(only, "expert-jpeg", 5).kind == "import"
    with pytest.raises(ConfigError, match=r"base\.checkpoint: no such checkpoint: .*nowhere"):
        plan(f"base.checkpoint={tmp_path}/nowhere")
    fused = plan(f"fusion.checkpoint={tmp_path}/a")
    assert named(fused, "fused").kind == "import" and named(fused, "fusing").inputs["start"].kind == "import"


def test_an_evaluation_is_cut_into_pieces_that_cover_every_level_once() -> None:
    content = plan("evaluation.piece=1000", "evaluation.every=3", test_images=100)
    pieces = [r.stage.spec for r in content.rows if (r.method, r.degradation) == ("base", "jpeg")]
    found = [spec.levels for spec in pieces if isinstance(spec, EvaluateSpec)]
    assert [level for piece in found for level in piece] == [*range(1, 102, 3), 101]  # the last level is always in
    assert {len(piece) for piece in found} == {8, 9}
    assert (
        {name: (of.levels[0], of.levels[-1]) for name, of in content.degradations.items()}
        == {d: (of[0], of[-1]) for d, of in LEVELS.items()}
        == {d: tuple(ends) for d, ends in content.describe()["levels"].items()}
    )
    whole, cut = plan(test_images=10_000), plan("data.test_images=400", test_images=10_000)
    assert [sum(r.method == "base" and r.degradation == d for r in whole.rows) for d in FOUR] == [6, 3, 3, 2]
    assert [sum(r.method == "base" and r.degradation == d for r in cut.rows) for d in FOUR] == [1, 1, 1, 1]
    one = plan("evaluation.piece=1", test_images=100)
    assert {len(r.stage.spec.levels) for r in one.rows if isinstance(r.stage.spec, EvaluateSpec)} == {1}


def test_unseen_degradations_and_published_corruptions_have_rows_of_their_own() -> None:
    levels = {**LEVELS, "haze": range(11)}
    asked = ("evaluation.unseen=[haze]", "methods=[base, oracle, ensemble]")
    content = plan(*asked, levels=levels.get, corruptions={"c-fog": "1" * 64})
    kinds = {(r.method, r.degradation): r.kind for r in content.rows}
    extra = {key: kind for key, kind in kinds.items() if kind != "trained"}
    assert extra == {
        ("base", "haze"): "unseen", ("ensemble", "haze"): "unseen",
        ("base", "c-fog"): "corruption", ("ensemble", "c-fog"): "corruption",
    }  # fmt: skip
    (fog,) = [r.stage.spec for r in content.rows if (r.method, r.degradation) == ("base", "c-fog")]
    assert isinstance(fog, EvaluateSpec) and (fog.levels, fog.corruption) == ((1, 2, 3, 4, 5), "1" * 64)
    assert content.degradations["haze"].levels == range(11) and "c-fog" not in content.degradations
    assert digests(plan("methods=[base, oracle, ensemble]")).items() <= digests(content).items()


def test_points_of_a_sweep_share_what_they_have_in_common() -> None:
    text = "experiment: x\nseeds: [0, 1]\nsweep: {fusiondistill.loss.kd: [0, 0.5], evaluation.every: [1, 5]}\n"
    whole, points = parse_points(text)
    plans = [build(point, "f" * 64, LEVELS.__getitem__, test_images=400) for point in points]
    together = union(whole, plans)
    trained = [s.name for s in together.stages if s.kind == "train" and s.seed == 0]
    assert sorted(trained) == sorted(
        ["base", "scratch", "vanilla", "fusing", *(f"expert-{d}" for d in FOUR), "fusiondistill", "fusiondistill"]
    )
    assert len(together.rows) == sum(len(p.rows) for p in plans)
    position = {s.digest: i for i, s in enumerate(together.stages)}
    assert len(position) == len(together.stages)
    assert all(position[n.digest] < position[s.digest] for s in together.stages for n in s.inputs.values())


def test_checkpoints_are_evaluated_without_any_training(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", {"w": torch.ones(2)}, {})
    config = parse("experiment: x\ndegradations: [blur]\n")
    card = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    models = {("mine", 0): (str(tmp_path / "a"), ModelConfig(name="cifar_resnet8"), card)}
    content = build_evaluation(config, "f" * 64, LEVELS.__getitem__, models, test_images=400)
    assert [s.kind for s in content.stages] == ["import", "evaluate"]
    assert [(r.method, r.degradation) for r in content.rows] == [("mine", "blur")]
    imported = content.stages[0].spec
    assert isinstance(imported, CheckpointSpec) and imported.data.mean == (1.0, 2.0, 3.0)


def test_thousands_of_stages_are_planned_at_once() -> None:
    began = time.process_time()
    content = plan(SEARCH, f"seeds={list(range(50))}")
    order = priorities(content.stages)
    seconds = time.process_time() - began
    assert len(content.stages) > 2000 and len(order) == len(content.stages) and seconds < 2
    assert content.describe()["rows"][0].keys() == {"method", "seed", "degradation", "kind", "directory"}


def test_the_longest_path_goes_first() -> None:
    """base(20) -> a(8) -> end(1) and base -> b(3): worked out by hand."""
    spec = named(plan(), "base").spec
    assert isinstance(spec, TrainSpec)

    def stage(name: str, epochs: int, *inputs: Stage) -> Stage:
        recipe = spec.recipe.model_copy(update={"epochs": epochs})
        return Stage(name, 0, spec.model_copy(update={"recipe": recipe}), {s.name: s for s in inputs})

    base = stage("base", 20)
    a, b, alone = stage("a", 8, base), stage("b", 3, base), stage("alone", 25)
    end = stage("end", 1, a)
    order = priorities((base, alone, a, b, end))
    assert [order[s.digest] for s in (base, a, b, end, alone)] == [29, 9, 3, 1, 25]
