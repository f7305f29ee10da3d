"""Rows as values: the table of built-ins, sections over it, ``define``, ``like``, and what cannot be."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

import mistaken
from fusiondistill.config import Config
from fusiondistill.config_file import parse, parse_points
from fusiondistill.inference import INFERENCE
from fusiondistill.methods import DEFAULT_ROWS, METHODS, Combined, Merge, Merged, Trained
from fusiondistill.old_spellings import OldSpelling
from fusiondistill_runner.planning.descriptions import of_method
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import EvaluateSpec, MergeSpec, SearchSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.searching.search_results import best_config

FOUR = ("jpeg", "blur", "noise", "saltpepper")


def config(text: str, *overrides: str) -> Config:
    return parse(f"experiment: x\n{text}", overrides=overrides)


def plan(text: str, *overrides: str) -> Plan:
    return build(config(text, *overrides), "f" * 64, lambda _: range(9), test_images=400, parameters=1000)


def mistakes(text: str) -> list[tuple[int | None, str, str]]:
    return mistaken.places(lambda: config(text))


def named(content: Plan, name: str) -> Stage:
    (stage,) = [s for s in content.stages if s.name == name]
    return stage


def inputs(stage: Stage) -> dict[str, str]:
    return {role: needed.name for role, needed in stage.inputs.items()}


EXAMPLE = """
methods: [base, oracle, fusing, fusiondistill, ties-dkd]
expert: {epochs: 30}
define:
  ties-dkd:
    like: fusiondistill
    title: TIES start, DKD
    start: {merge: ties, of: expert, density: 0.3}
    loss: {ce: 0.1, feature: 0, dkd: {weight: 1.0, beta: 2.0}}
search: {of: ties-dkd, space: {loss.dkd.beta: {uniform: [1, 8]}, start.density: {uniform: [0.1, 1]}}}
"""


def test_a_row_of_ones_own_is_a_few_lines_and_shares_what_is_alike() -> None:
    content = plan(EXAMPLE)
    own = named(content, "ties-dkd")
    assert isinstance(own.spec, TrainSpec) and own.spec.recipe.loss.weighted == {
        "ce": {"weight": 0.1}, "dkd": {"weight": 1.0, "alpha": 1.0, "beta": 2.0, "temperature": 4.0},
    }  # fmt: skip
    assert own.spec.recipe.epochs == 100 and own.spec.recipe.optimizer.name == "radam"  # as fusiondistill has it
    merged = own.inputs["start"].spec
    assert isinstance(merged, MergeSpec) and (merged.merge, merged.parameters) == ("ties", {"density": 0.3})
    assert {role: s for role, s in own.inputs.items() if role != "start"} == {
        f"teacher-{d}": named(content, f"expert-{d}") for d in FOUR
    }
    trained = [s.name for s in content.stages if s.kind == "train"]
    assert sorted(trained) == sorted(
        ["base", *(f"expert-{d}" for d in FOUR), "fusing", "fusiondistill", "ties-dkd", "ties-dkd-searched"]
    )
    assert [t.id for t in content.descriptions] == [
        "base", "oracle", "fusing", "fusiondistill", "ties-dkd", "ties-dkd-searched", *(f"expert-{d}" for d in FOUR),
    ]  # fmt: skip
    told = {t.id: t for t in content.descriptions}
    assert told["ties-dkd"].title == "TIES start, DKD" and told["ties-dkd-searched"].searched == "ties-dkd"
    assert told["oracle"].told and (told["oracle"].parameters, told["oracle"].passes) == (4000, 1)
    assert "taught by Expert" in told["ties-dkd"].description


def test_rows_that_are_the_same_are_one_stage_and_one_evaluation() -> None:
    content = plan("methods: [fusiondistill, twin]\ndefine: {twin: {like: fusiondistill, title: Twin}}\n")
    assert [s.name for s in content.stages if s.kind == "train"].count("fusiondistill") == 1
    assert "twin" not in {s.name for s in content.stages}
    of = {(r.method, r.degradation): r.stage for r in content.rows}
    assert all(of["twin", d] is of["fusiondistill", d] for d in FOUR)


def test_every_form_of_method_and_what_its_rows_are() -> None:
    content = plan("""
methods: [more, seen, soup-vote, own-vote, soft, late]
define:
  seen: {start: random, train_on: clean, epochs: 5}
  more: {start: expert, train_on: each, teachers: seen, title: More}
  soup: {start: {merge: average, of: more, recalibrate: per_degradation}, inference: own}
  soup-vote: {like: soup, inference: vote}
  own-vote: {of: more, inference: vote}
  soft: {of: more, inference: soft_vote}
  late: {start: {merge: average, of: more}, train_on: all, loss: {ce: 1}}
""")
    assert inputs(named(content, "more-blur")) == {"start": "expert-blur", "teacher-blur": "seen"}
    soup = named(content, "fused-told-blur")
    assert inputs(soup) == {f"expert-{d}": f"more-{d}" for d in FOUR}  # no common base: each has an expert of its own
    for method, role in (("soup-vote", "fused-told-"), ("own-vote", "more-"), ("soft", "more-")):
        stage = named(content, f"evaluate-{method}-jpeg")
        assert inputs(stage) == {f"expert-{d}": f"{role}{d}" for d in FOUR}
        assert isinstance(stage.spec, EvaluateSpec)
        assert stage.spec.inference == ("soft_vote" if method == "soft" else "vote")
    rows = {(r.method, r.degradation) for r in content.rows}
    assert {(f"more-{a}", b) for a in FOUR for b in FOUR} <= rows  # as a row it is the matrix
    late = named(content, "late").spec
    assert isinstance(late, TrainSpec) and late.recipe.epochs == 100 and late.recipe.optimizer.name == "radam"
    told = {t.id: t for t in content.descriptions}
    assert (told["soft"].passes, told["soft"].parameters, told["soft"].form) == (4, 4000, "combined")
    assert (told["more-blur"].own, told["more-blur"].of, told["more-blur"].title) == ("blur", "more", "More: blur")


def test_one_network_gets_statistics_for_each_degradation_or_goes_back_towards_its_start() -> None:
    content = plan("""
methods: [recommended, mine, back]
generalist: {epochs: 8}
define:
  mine: {like: recommended, inference: own, start: {merge: average, of: vanilla, recalibrate: per_degradation}}
  back: {start: {merge: wise_ft, of: vanilla, alpha: [0.5, 1.0]}}
""")
    trained = {s.name: s.spec for s in content.stages if isinstance(s.spec, TrainSpec)}
    assert trained.keys() == {"base", "generalist", "vanilla"}
    spec = trained["generalist"]
    assert (spec.recipe.epochs, spec.recipe.batch_size, spec.recipe.batchnorm) == (4, 64, "apart")
    assert spec.digested()["normalised"] == "apart", "its epochs are judged in another way than those of vanilla"
    assert "normalised" not in trained["vanilla"].digested()
    assert {one.id: one.levels for one in spec.degradations if one.name == "saltpepper"} == {
        "saltpepper_1": tuple(range(13)), "saltpepper_2": tuple(range(13, 26)),
    }  # fmt: skip
    assert [one.id for one in spec.degradations][:2] == ["jpeg_1", "jpeg_2"] and len(spec.degradations) == 8
    of = {(r.method, r.degradation): r.stage for r in content.rows}
    packed = of["recommended", "blur"].inputs["model"].inputs
    assert packed.keys() == {"part", *(f"expert-{d}_{number}" for d in FOUR for number in (1, 2))}
    for merged, one, told in ((packed["expert-blur_2"], "generalist", "blur_2"),
                              (of["mine", "blur"].inputs["model"], "vanilla", "blur")):  # fmt: skip
        assert inputs(merged) == {"base": "base", "expert-": one} and merged.name == f"fused-told-{told}"
        assert isinstance(merged.spec, MergeSpec) and merged.spec.told in {d.id for d in merged.spec.degradations}
    assert inputs(of["back", "blur"].inputs["model"]) == {"base": "base", "expert-": "vanilla"}
    told = {t.id: t.description for t in content.descriptions}
    assert "the weights of Vanilla (wise_ft, alpha [0.5, 1.0], chosen on validation)" in told["back"]
    assert "told nothing" in told["recommended"]
    space = "{of: generalist, epochs: 6, trials: 2, space: {optimizer.lr: {choice: [0.1, 0.2]}}}"
    searched = plan(f"methods: [generalist]\nsearch: {space}\n")
    (search,) = (s.spec for s in searched.stages if isinstance(s.spec, SearchSpec))
    assert search.train.recipe.epochs == 3, "a trial's epoch sees each image in both bands"


def test_null_takes_away_and_a_section_lays_over() -> None:
    changed = config("fusiondistill: {teachers: null, loss: {feature: 0, ce: 1}}\nexpert: {start: random}\n")
    distilled = changed.table["fusiondistill"]
    assert isinstance(distilled, Trained) and distilled.teachers is None
    content = build(changed, "f" * 64, lambda _: range(9))
    distilled = next(r.stage.inputs["model"] for r in content.rows if r.method == "fusiondistill")
    assert (
        inputs(distilled) == {"start": "fused"}
        and distilled.name == "fusing"
        and "base" not in inputs(named(content, "fused"))
    )
    assert isinstance(changed.table["oracle"], Combined) and isinstance(changed.table["modelsoups"], Merged)
    own = config("modelsoups: {start: {merge: linear, weights: [1, 1, 1, 2]}}\n").table["modelsoups"]
    assert isinstance(own, Merged) and own.start.of == "expert" and own.start.parameters == {"weights": [1, 1, 1, 2]}


def test_teachers_that_no_term_needs_are_none_but_a_search_may_need_them() -> None:
    text = "methods: [fusiondistill]\nfusiondistill: {loss: {feature: 0, ce: 1}}\n"
    assert inputs(named(plan(text), "fusiondistill")) == {"start": "fused"}
    searched = plan(text + "search: {space: {loss.kd: {uniform: [0, 1]}}}\n")
    assert len(inputs(named(searched, "search-fusiondistill"))) >= 5


def test_the_recipe_is_chosen_by_its_name_or_by_the_data() -> None:
    def decay(text: str) -> float:
        base = config(text).table["base"]
        assert isinstance(base, Trained)
        return base.optimizer.weight_decay

    assert decay("data: {name: cifar10}\n") == 1e-4 and decay("data: {name: cifar100}\n") == 5e-4
    assert decay("data: {name: parquet, root: x}\nrecipe: paper-cifar100\n") == 5e-4
    assert decay("data: {name: cifar100}\nbase: {recipe: paper}\n") == 1e-4
    assert decay("data: {name: cifar100}\nbase: {optimizer: {lr: 0.2}}\n") == 5e-4


def test_the_papers_quirks_are_values() -> None:
    paper, usual = config("protocol: paper\n"), config("")
    limit = {name: method.largest_cutout for name, method in paper.table.items() if isinstance(method, Trained)}
    assert limit == {
        "base": None, "expert": None, "scratch": None, "vanilla": None, "generalist": None, "fusing": 16,
        "fusiondistill": 16,
    }  # fmt: skip
    assert all(m.pairing == "same" for m in paper.table.values() if isinstance(m, Trained))
    assert all(m.pairing == "independent" for m in usual.table.values() if isinstance(m, Trained))
    assert all(m.coupled_draws for m in paper.table.values() if isinstance(m, Trained))
    assert not any(m.coupled_draws for m in usual.table.values() if isinstance(m, Trained))
    own = config("protocol: paper\ndefine: {mine: {like: fusing}, other: {like: vanilla, pairing: independent}}\n")
    assert own.table["mine"].largest_cutout == 16 and own.table["other"].pairing == "independent"  # type: ignore[union-attr]


def test_what_is_inherited_and_no_longer_fits_goes_and_old_weights_stay() -> None:
    merged = config(
        "fusing: {epochs: 5}\ndefine: {m: {like: fusing, train_on: null, start: {merge: average}}}\n"
    ).table["m"]
    assert isinstance(merged, Merged)
    text = "define: {a: {like: fusiondistill, loss: {kd: 0.5}}, m: {like: a}}\n"
    with pytest.warns(OldSpelling):
        loss = config(text, "m.loss.temperature=2").table["m"].loss  # type: ignore[union-attr]
    assert loss.root["kd"] == {"weight": 0.5, "temperature": 2.0}
    with pytest.warns(OldSpelling):
        old = config("fusiondistill: {loss: {temperature: 3}}\n").table["fusiondistill"].loss  # type: ignore[union-attr]
    assert (
        old.root["kd"] == {"weight": 0.0, "temperature": 3.0}
        and old.weighted == config("").table["fusiondistill"].loss.weighted
    )  # type: ignore[union-attr]
    beside = "fusiondistill: {loss: {kd: {temperature: 3}}}\nsearch: {space: {loss.kd: {uniform: [0, 1]}}}\n"
    assert config(beside).table["fusiondistill"].loss.root["kd"]["temperature"] == 3  # type: ignore[union-attr]


def test_a_start_replaces_in_a_sweep_as_in_a_file_and_one_key_of_it_can_be_swept() -> None:
    text = "experiment: x\nmodelsoups: {start: {merge: ties, density: 0.3, images: 50}}\n"
    _, points = parse_points(text + "sweep: {modelsoups.start: [{merge: average}, {merge: median}]}\n")
    starts = [point.table["modelsoups"].start for point in points]
    assert [(s.merge, s.images) for s in starts] == [("average", 10_000), ("median", 10_000)]  # type: ignore[union-attr]
    _, points = parse_points(text + "sweep: {modelsoups.start.density: [0.5, 0.6]}\n")
    assert [p.table["modelsoups"].start.parameters for p in points] == [{"density": 0.5}, {"density": 0.6}]  # type: ignore[union-attr]


def test_a_way_of_inference_that_is_told_is_asked() -> None:
    @INFERENCE.register("told_again", told=True)
    def told_again(classifiers: Any) -> Any:
        """The network that it is given."""
        return next(iter(classifiers.values()))

    content = plan("methods: [oracle, mine]\ndefine: {mine: {of: expert, inference: told_again}}\n")
    stage = named(content, "evaluate-mine-blur")
    assert inputs(stage) == {"expert-blur": "expert-blur"} and stage.spec.inference == "told_again"  # type: ignore[union-attr]
    assert {t.id: t.told for t in content.descriptions}["mine"]


def test_several_searches() -> None:
    content = plan("""
methods: [vanilla, fusing]
search:
- {of: vanilla, trials: 2, space: {optimizer.lr: {loguniform: [1.0e-4, 1.0e-2]}}}
- {of: fusing, trials: 3, space: {start.recalibrate: {choice: [none, mixed]}}}
- {of: fusiondistill, space: {loss.kd: {uniform: [0, 1]}}}
""")
    assert [s.name for s in content.stages if s.kind == "search"] == ["search-vanilla", "search-fusing"]
    assert {r.method for r in content.rows} == {"vanilla", "vanilla-searched", "fusing", "fusing-searched"}


OLD = {
    "fusion: {method: ties}\n": "modelsoups: {start: {merge: ties, of: expert}}\n",
    "fusion: {method: ties, recalibrate: none, images: 50}\n": "modelsoups: {start: {merge: ties, of: expert, "
    "recalibrate: none, images: 50}}\n",
    "fusiondistill: {loss: {kd: 0.5, temperature: 2}}\n": "fusiondistill: "
    "{loss: {kd: {weight: 0.5, temperature: 2}}}\n",
    "search: {space: {fusion.method: {choice: [ties]}, loss.temperature: {uniform: [1, 2]}}}\n": "search: {space: "
    "{start.merge: {choice: [ties]}, loss.kd.temperature: {uniform: [1, 2]}}}\n",
}


@pytest.mark.parametrize("old", OLD)
def test_old_spellings_go_on_working_and_one_line_says_the_new_one(old: str) -> None:
    with pytest.warns(OldSpelling, match=" is .* now") as said:
        found = config(old)
    assert found == config(OLD[old]) and all("\n" not in str(w.message) for w in said)
    assert not [w for w in said if "modelsoups" in str(w.message) and "search" in old]


def test_the_old_way_to_ask_for_the_row_that_is_told() -> None:
    with pytest.warns(
        OldSpelling, match=r"fusion\.recalibrate is modelsoups\.start\.recalibrate \(mixed\), and the row"
    ):
        found = config("fusion: {recalibrate: per_degradation, method: median}\n")
    assert found.methods == (*DEFAULT_ROWS[:6], "modelsoups-told", *DEFAULT_ROWS[6:])
    told, soups = found.table["modelsoups-told"], found.table["modelsoups"]
    assert isinstance(told, Merged) and (told.start.merge, told.start.recalibrate) == ("median", "per_degradation")
    assert isinstance(soups, Merged) and (soups.start.merge, soups.start.recalibrate) == ("median", "mixed")


def test_new_spellings_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config(EXAMPLE)


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("define: {base: {epochs: 3}}\n", 2, "define.base", "write a section base: beside define"),
        ("define: {a: {like: vanilla, inference: router}}\n", 2, "define.a.inference", "say of: expert, or a"),
        ("define: {a: {of: vanilla, inference: router}}\n", 2, "define.a.of", "there is nothing to combine"),
        ("define: {a: {start: {merge: average}, inference: router}}\n", 2, "define.a.inference", "gives one: say of"),
        ("define: {a: {of: expert, inference: adapt}}\n", 2, "define.a.inference", "is how one network answers"),
        ("routed: {inference: {name: router, wdth: 3}}\n", 2, "routed.inference.wdth", "did you mean 'width'"),
        ("degradations: [blur]\nmethods: [routed]\n", 3, "methods", "chooses between degradations, and there is one"),
        ("define: {Big: {like: base}}\n", 2, "define.Big", "lower-case letters"),
        ("define: {data: {like: base}}\n", 2, "define.data", "its own meaning"),
        ("define: {x-searched: {like: base}}\n", 2, "define.x-searched", "the row that a search gives"),
        ("define: {expert-blur: {like: base}}\n", 2, "define.expert-blur", "network of expert"),
        ("define: {my: {like: expert}, my-jpeg: {like: fusing}}\n", 2, "define.my-jpeg", "network of my"),
        ("define: {v-blur: {like: fusing}, v: {like: vanilla, train_on: each}}\n", 2, "define.v-blur", "network of v"),
        ("define: {random: {like: base}}\n", 2, "define.random", "its own meaning"),
        ("define: {a: {like: [base]}}\n", 2, "define.a.like", "must be the name of a method"),
        ("define: {a: {start: {merge: average, of: [expert]}}}\n", 2, "define.a.start.of", "name of a method"),
        ("define: {a: {start: {merge: linear, weights: [1, 2]}}}\n", 2, "define.a.start", "2 weights for 4 experts"),
        ("base: [1]\n", 2, "base", "must be a mapping"),
        ("base: {recipe: [paper]}\n", 2, "base.recipe", "no recipe"),
        ("modelsoups: {recipe: paper}\n", 2, "modelsoups.recipe", "unknown key"),
        ("fusion: ties\n", 2, "fusion", "is modelsoups.start now"),
        ("recipe: papr\n", 2, "recipe", "'paper'"),
        ("vanilla: {checkpoint: '/dev/null/{degradation}'}\n", 2, "vanilla.checkpoint", "for train_on: each"),
        ("modelsoups-told: {checkpoint: /dev/null}\n", 2, "modelsoups-told.checkpoint", "is one network"),
        ("fusion: {method: ties}\nmodelsoups: {start: {merge: average}}\n", 2, "fusion.method", "given, too"),
        ("vanilla: {checkpoint: /dev/null}\nsearch: {of: vanilla, space: {loss.ce: {uniform: [0, 1]}}}\n",
         3, "search.of", "nothing to search"),
        ("search: {space: {start.merge: {choice: [linear]}}}\n", 2, "search.space.start.merge", "it needs weights"),
        ("search: {space: {start.merge: {choice: [{a: 1}]}}}\n", 2, "search.space.start.merge", "cannot be"),
        ("search: [{space: {loss.ce: {uniform: [0, 1]}}}]\nsweep: {search.trials: [1, 2]}\n",
         3, "sweep.search.trials", "search is a list"),
        ("define: {a: {like: fusing-distill}}\n", 2, "define.a.like", "did you mean 'fusiondistill'?"),
        ("define:\n  a: {like: b}\n  b: {like: a}\n", 3, "define.a.like", "a -> b -> a"),
        ("define: {a: {start: b, train_on: all}, b: {start: a, train_on: all}}\n", 2, "define.b.start", "a -> b -> a"),
        ("vanilla: {start: fusing}\nmodelsoups: {start: {merge: average, of: expert}}\nexpert: {start: vanilla}\n",
         3, "modelsoups.start.of", "expert -> vanilla -> fusing -> modelsoups -> expert"),
        ("define: {a: {start: vanila, train_on: all}}\n", 2, "define.a.start", "did you mean 'vanilla'?"),
        ("define: {a: {like: vanilla, teachers: experts}}\n", 2, "define.a.teachers", "did you mean 'expert'?"),
        ("define: {a: {title: nothing}}\n", 2, "define.a", "says neither train_on"),
        ("define: {a: {train_on: all}}\n", 2, "define.a.start", "is missing"),
        ("define: {a: {start: expert, train_on: all}}\n", 2, "define.a.start", "only train_on: each"),
        ("define: {a: {start: oracle, train_on: all}}\n", 2, "define.a.start", "has none of its own"),
        ("define: {a: {like: recommended, optimizer: {lr: 0.1}}}\n", 2, "define.a.optimizer",
         "a takes its weights from generalist: write it there, generalist.optimizer"),
        ("ensemble: {batch_size: 8}\n", 2, "ensemble.batch_size", "write it there, expert.batch_size"),
        ("vanilla: {bands: 2}\n", 2, "vanilla.bands", "is for batchnorm: apart"),
        ("fusiondistill: {bands: 2, batchnorm: apart}\n", 2, "fusiondistill.bands", "without teachers"),
        ("search: {of: generalist, space: {batch_size: {choice: [16, 32]}}}\n", 2, "search.space.batch_size",
         "is not for a search with bands: 2"),
        ("search: {of: generalist, space: {batchnorm: {choice: [apart, together]}}}\n", 2, "search.space.batchnorm",
         "is not for a search with bands: 2"),
        ("generalist: {bands: 9}\n", 2, "generalist.bands", "less than or equal to 8"),
        ("define: {a: {like: recommended, inference: own}}\n", 2, "define.a.inference",
         "own knows no levels, and generalist has 2 bands of them: say router, or bands: 1 there"),
        ("define: {a: {start: {merge: ties, of: vanilla}}}\n", 2, "define.a.start.merge",
         "vanilla is one network, and ties merges several; of one: average, task_arithmetic, wise_ft"),
        ("define: {a: {start: modelsoups-told, train_on: all}}\n", 2, "define.a.start", "for each degradation"),
        ("define: {a: {of: base, inference: vote}}\n", 2, "define.a.of", "nothing to combine"),
        ("define: {a: {of: expert}}\n", 2, "define.a.inference", "is missing"),
        ("define: {a: {of: expert, inference: vot}}\n", 2, "define.a.inference.name", "did you mean 'vote'?"),
        ("define: {a: {like: vanilla, inference: vote}}\n", 2, "define.a.inference", "gives one"),
        ("define: {a: {start: {merge: tis}}}\n", 2, "define.a.start.merge", "did you mean 'ties'?"),
        ("define: {a: {start: {merge: ties, densty: 1}}}\n", 2, "define.a.start.densty", "did you mean 'density'?"),
        ("define: {a: {start: {merge: ties, density: 2}}}\n", 2, "define.a.start.density", "less than or equal to 1"),
        ("define: {a: {start: {of: expert}}}\n", 2, "define.a.start", "needs merge"),
        ("define: {a: {start: {merge: average, of: oracle}}}\n", 2, "define.a.start.of", "these are: base, expert"),
        ("expert: {start: random}\nmodelsoups: {start: {merge: ties}}\n", 3, "modelsoups.start.merge", "needs"),
        ("define: {a: {like: base, teachers: expert}}\n", 2, "define.a.teachers", "clean images have none"),
        ("define: {a: {like: fusing, teachers: expert}}\n", 2, "define.a.teachers", "no term of the loss needs"),
        ("define: {a: {like: fusing, loss: {kd: 1}}}\n", 2, "define.a.loss", "needs teachers"),
        ("define: {a: {like: fusing, recipe: papr}}\n", 2, "define.a.recipe", "did you mean 'paper'?"),
        ("modelsoups: {epochs: 3}\n", 2, "modelsoups.epochs", "write it there, expert.epochs"),
        ("methods: [fusng]\n", 2, "methods.0", "did you mean 'fusing'?"),
        ("search: {of: oracle, space: {loss.kd: {uniform: [0, 1]}}}\n", 2, "search.of", "is not trained"),
        ("search: {of: vanila, space: {loss.kd: {uniform: [0, 1]}}}\n", 2, "search.of", "did you mean 'vanilla'?"),
        ("search: {of: vanilla, space: {start.merge: {choice: [ties]}}}\n", 2, "search.space.start.merge", "no merge"),
        ("search: {space: {start.densty: {uniform: [0, 1]}, start.merge: {choice: [ties]}}}\n",
         2, "search.space.start.densty", "did you mean 'start.density'?"),
        ("search: {space: {start.density: {uniform: [0.1, 2]}, start.merge: {choice: [ties]}}}\n",
         2, "search.space.start.density", "cannot be"),
        ("search:\n- {space: {loss.ce: {uniform: [0, 1]}}}\n- {space: {loss.ce: {uniform: [0, 1]}}}\n",
         4, "search.1.of", "already is a search"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_line(text: str, line: int, key: str, message: str) -> None:
    found = mistakes(text)
    assert [(where, what) for where, what, _ in found] == [(line, key)], found
    assert message in found[0][2], found


def test_a_config_is_what_its_own_content_says() -> None:
    for text in ("", EXAMPLE, "protocol: paper\nmethods: [base, vanilla]\n"):
        import yaml

        whole = config(text)
        again = parse(yaml.safe_dump(whole.content()))
        assert {n: again.table[n] for n in METHODS if n in whole.content()} == {
            n: whole.table[n] for n in METHODS if n in whole.content()
        }
        assert (
            build(again, "f", lambda _: range(9)).stages[-1].digest
            == build(whole, "f", lambda _: range(9)).stages[-1].digest
        )


def test_the_best_of_a_search_is_a_config_of_that_row_alone() -> None:
    content = plan(EXAMPLE)
    found: dict[str, Any] = {"loss.dkd.beta": 3.5, "start.density": 0.5}
    best = parse(best_config(content.config, "ties-dkd", found))
    assert best.methods == ("base", "ties-dkd") and best.search == ()
    row = best.table["ties-dkd"]
    assert isinstance(row, Trained) and isinstance(row.start, Merge) and row.start.parameters == {"density": 0.5}
    assert row.loss.root["dkd"]["beta"] == 3.5


def test_what_a_merge_is_given_and_what_it_chooses_stand_in_its_description() -> None:
    text = "{experiment: x, data: {name: digits}, define: {"
    rows = {
        "plain": ("ties", "merged (ties), evaluated"),
        "dense": ("ties, density: 0.5", "merged (ties, density 0.5), evaluated"),
        "best": ("wise_ft, alpha: [0.2, 1]", "merged (wise_ft, alpha [0.2, 1.0], chosen on validation), evaluated"),
        "soup": ("greedy_soup", "merged (greedy_soup, chosen on validation), evaluated"),
    }  # fmt: skip
    text += ", ".join(f"{name}: {{start: {{merge: {merge}, of: expert}}}}" for name, (merge, _) in rows.items())
    config = parse(text + f"}}, methods: [{', '.join(rows)}]}}")
    for name, (_, said) in rows.items():
        assert said in of_method(config, name, 0).description
