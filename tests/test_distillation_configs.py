"""Configs of trainings beyond the paper's: what they plan and cost, what stays as it was, what is refused."""

from __future__ import annotations

import pytest

from fusiondistill.config import Config
from fusiondistill.config_file import parse
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import MergeSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage
from mistaken import only_mistake

FOUR = ("jpeg", "blur", "noise", "saltpepper")


def config(text: str) -> Config:
    return parse(f"experiment: x\n{text}")


def plan(text: str) -> Plan:
    return build(config(text), "f" * 64, lambda _: range(9), test_images=400, parameters=1000)


def named(content: Plan, name: str) -> Stage:
    (stage,) = [s for s in content.stages if s.name == name]
    return stage


def spec_of(stage: Stage) -> TrainSpec:
    assert isinstance(stage.spec, TrainSpec)
    return stage.spec


TOGETHER = """
methods: [fusiondistill, mean, sure, base-of-all]
define:
  mean: {like: fusiondistill, teachers: {of: expert, by: mean}}
  sure: {like: fusiondistill, teachers: {of: expert, by: confidence}}
  base-of-all: {start: base, train_on: clean, teachers: {of: expert, by: mean}}
"""


def test_teachers_together_are_the_same_stages_in_another_training() -> None:
    content = plan(TOGETHER)
    one, mean, sure, clean = (named(content, name) for name in ("fusiondistill", "mean", "sure", "base-of-all"))
    assert one.inputs == mean.inputs == sure.inputs and len({s.digest for s in (one, mean, sure)}) == 3
    assert {role for role in clean.inputs if role != "start"} == {f"teacher-{d}" for d in FOUR}
    assert (spec_of(mean).taught_by, spec_of(mean).together) == ("mean", FOUR) == (
        spec_of(clean).taught_by, spec_of(clean).together,
    )  # fmt: skip
    assert spec_of(one).teachers == 1 and spec_of(sure).teachers == 4
    assert (mean.work / 4, one.work / 4) == pytest.approx((100 * 2.2, 100 * 1.3)), "in epochs, a teacher's is 0.3"
    told = {d.id: d.description for d in content.descriptions}
    assert told["mean"].endswith(
        "taught by all 4 networks of Expert together, averaged evenly (a forward pass of each)"
    )
    assert "averaged by their confidence in each image's label" in told["sure"]


ROUNDS = """
methods: [oracle, close-soup]
degradations: [jpeg, blur]
define:
  close: {like: expert, epochs: 10, average_every: 4, pull: 0.01}
  close-soup: {start: {merge: average, of: close}}
"""


def test_experts_are_averaged_by_stages_between_their_rounds() -> None:
    content = plan(ROUNDS)
    last = [named(content, f"close-{d}") for d in ("jpeg", "blur")]
    for stage, own in zip(last, ("jpeg", "blur"), strict=True):
        spans, averages = [spec_of(stage).span], []
        while stage.inputs["start"].name != "base":
            average = stage.inputs["start"]
            assert isinstance(average.spec, MergeSpec) and average.spec.recalibrate == "mixed"
            assert average.inputs["base"].name == "base"
            averages.append(average.name)
            stage = average.inputs[f"expert-{own}"]
            spans.append(spec_of(stage).span)
        assert (spans, averages) == ([(8, 10), (4, 8), (0, 4)], ["close-average2", "close-average1"])
        assert stage.inputs["teacher-" + own].name == "base"
    assert last[0].inputs["start"] is last[1].inputs["start"]
    (soup,) = [s for s in content.stages if isinstance(s.spec, MergeSpec) and last[0] in s.inputs.values()]
    assert soup.inputs["base"].name == "base" and last[0].work == pytest.approx(2 * 1.3)
    whole = plan(ROUNDS.replace("average_every: 4", "average_every: null"))
    assert spec_of(named(whole, "close-jpeg")).span is None


def test_what_says_nothing_new_makes_no_other_stage() -> None:
    said = """
fusiondistill:
  teachers: {of: expert, by: degradation}
  swa: 0
  pull: 0
  mixup: 0
  batchnorm: together
  loss: {ce: {weight: 0.1, warmup: 0}, feature: {weight: 1, fade: 0}}
expert: {average_every: null}
"""
    assert [s.digest for s in plan(said).stages] == [s.digest for s in plan("").stages]
    for change in ("swa: 0.5", "pull: 0.1", "mixup: 0.2", "batchnorm: apart", "loss: {ce: {warmup: 0.1}}"):
        assert (
            named(plan(f"fusiondistill: {{{change}}}"), "fusiondistill").digest
            != named(plan(""), "fusiondistill").digest
        )


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("fusiondistill:\n  teachers: {of: base, by: confidence}", 3, "fusiondistill.teachers.by",
         "confidence is of several networks, and base gives one: leave it out"),
        ("degradations: [jpeg]\nfusiondistill:\n  teachers: {of: expert, by: mean}", 4, "fusiondistill.teachers.by",
         "mean is of several networks, and expert gives one: leave it out"),
        ("fusiondistill:\n  teachers: {of: expert, by: luck}", 3, "fusiondistill.teachers.by", "'degradation', 'conf"),
        ("base:\n  teachers: expert\n  start: vanilla", 3, "base.teachers", "all can teach: by: mean"),
        ("fusiondistill:\n  mixup: 0.2\n  loss: {dkd: 1}", 3, "fusiondistill.mixup",
         "mixes two labels, and the loss term dkd takes one: leave one of them out"),
        ("fusing:\n  mixup: -1", 3, "fusing.mixup", "greater than or equal to 0"),
        ("fusing:\n  ema: 0.9\n  swa: 0.5", 4, "fusing.swa", "give one of the two"),
        ("expert:\n  batchnorm: apart", 3, "expert.batchnorm", "is for train_on: all, where a step has images"),
        ("fusing:\n  batchnorm: alone", 3, "fusing.batchnorm", "'together' or 'apart'"),
        ("fusing:\n  swa: 1", 3, "fusing.swa", "less than 1"),
        ("scratch:\n  pull: 0.1", 3, "scratch.pull", "must not be random weights"),
        ("expert:\n  epochs: 5\n  average_every: 9", 4, "expert.average_every",
         "is 9, and there are 5 epochs: nothing would be averaged before the end"),
        ("expert:\n  average_every: 100", 3, "expert.average_every", "is 100, and there are 100 epochs"),
        ("fusing:\n  average_every: 2", 3, "fusing.average_every", "is for train_on: each"),
        ("expert:\n  average_every: 0", 3, "expert.average_every", "greater than or equal to 1"),
        ("degradations: blur\nexpert:\n  average_every: 2", 4, "expert.average_every", "needs two networks to average"),
        ("search: {of: expert, space: {optimizer.lr: {uniform: [0.1, 1]}}}\nexpert:\n  average_every: 2", 4,
         "expert.average_every", "is not for a method that is searched"),
        ("fusiondistill:\n  loss: {attention: {weight: 1, layers: {stage9: 1}}}", 3,
         "fusiondistill.loss.attention.layers", "has no layer 'stage9'; candidates: stage3, stage2, stage1"),
        ("fusiondistill:\n  loss: {kd: {weight: 1, warmup: 2}}", 3, "fusiondistill.loss.kd.warmup",
         "less than or equal to 1"),
        ("fusiondistill:\n  loss: {kd: {weight: 1, fades: 1}}", 3, "fusiondistill.loss.kd.fades",
         "did you mean 'fade'"),
        ("fusing:\n  pairing: independent\n  loss: {consistency: 12}", 3, "fusing.pairing",
         "must be same: the loss term"),
        ("expert:\n  pairing: same\n  loss: {consistency: 12}", 4, "expert.loss", "train_on: all has these"),
        ("search: {of: fusing, space: {loss.consistency: {uniform: [1, 12]}}}", 2, "search.space.loss.consistency",
         "compares an image under all degradations of a step: say pairing: same"),
        ("fusiondistill: {mixup: 0.2}\nsearch: {space: {loss.dkd: {uniform: [0.1, 1]}}}", 3, "search.space.loss.dkd",
         "takes one label of each image, and mixup mixes two"),
        ("fusiondistill: {loss: {dkd: 1}}\nsearch: {space: {mixup: {choice: [0, 0.2]}}}", 3, "search.space.mixup",
         "cannot be 0.2: mixes two labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_its_line(text: str, line: int, key: str, message: str) -> None:
    mistake = only_mistake(lambda: config(text))
    assert (mistake.line, mistake.key) == (line, key) and message in mistake.message


def test_what_a_section_changes_is_said_beside_the_built_in_sentence() -> None:
    content = plan("fusiondistill: {teachers: {of: expert, by: mean}}\nexpert: {average_every: 5}")
    told = {one.id: one.description for one in content.descriptions}
    assert told["fusiondistill"].endswith("told nothing; taught by all 4 networks of Expert together, averaged evenly "
                                          "(a forward pass of each)")  # fmt: skip
    start = "{merge: task_arithmetic, of: expert, recalibrate: per_degradation}"
    routed = plan(f"methods: [far]\ndefine: {{far: {{start: {start}, inference: router}}}}")
    assert [one.description for one in routed.descriptions if one.id == "far"] == [
        "the networks of Expert, merged (task_arithmetic), evaluated without further training; inference: router"
    ]
    paired = config("fusing: {pairing: same, loss: {consistency: 12}}").table["fusing"]
    assert paired.loss.weight("consistency") == 12


def test_what_came_later_can_be_searched() -> None:
    space = "{loss.kd.standardise: {choice: [true, false]}, loss.kd.fade: {uniform: [0, 1]}, mixup: {choice: [0, 1]}}"
    found = config(f"search: {{space: {space}}}").search[0].space
    assert set(found) == {"loss.kd.standardise", "loss.kd.fade", "mixup"}
