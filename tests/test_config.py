"""A config file: everything that is wrong with one, at once and by line, and what is assumed without a key."""

import json
import math
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

import mistaken
from fusiondistill import config_file, safe_yaml
from fusiondistill.config import Config
from fusiondistill.config_file import ConfigError
from fusiondistill.recipe import Recipe, with_keys

OK = "experiment: x\n"


ROLES = ("base", "expert", "scratch", "vanilla", "fusing", "fusiondistill")


def mistakes(text: str, *overrides: str) -> list[tuple[int | None, str, str]]:
    return mistaken.places(lambda: config_file.parse(text, source="file.yaml", overrides=overrides))


def places(text: str, *overrides: str) -> list[tuple[int | None, str]]:
    return [(line, key) for line, key, _ in mistakes(text, *overrides)]


@pytest.mark.parametrize(
    "text, said",
    [
        ("base: {resized_crop: 0.3, resized_crop_ratio: 0.3}", "input should be a list, not 0.3: write [low, high]"),
        ("base: {resized_crop: 3}", "base.resized_crop.0: input should be less than or equal to 1, not 3"),
        ("base: {loss: ce}", "base.loss: input should be a mapping, not 'ce': write {ce: 1}, a weight for each term"),
        ("data: {name: digits, mean: 0.5}", "not 0.5: write [0.5, 0.5, 0.5]"),
        ("base: {schedule: {milestones: 0.5}}", "not 0.5: write [0.5]"),
        ("base: {resized_crop_ratio: [0.5, 2]}", "base.resized_crop_ratio: says how resized_crop cuts, which is not"),
    ],
)
def test_a_value_in_the_place_of_a_list_is_told_what_to_write(text: str, said: str) -> None:
    with pytest.raises(config_file.ConfigError) as error:
        config_file.parse(f"experiment: x\n{text}\n")
    assert said in str(error.value)


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    text = """\
# a comment
experiment: a b
protocol: papyrus
seeds: [1, 1]
data:
  name: cifar11
  trian_images: 5
model:
  name: cifar_resnet21
degradations:
  - jpeg
  - blurr
methods: [base, magic]
base:
  epochs: 0
  optimizer: {lr: fast}
  loss:
    ce: -1
7: seven
evaluation: 5
resources:

  gpus_per_worker: 1.5
search:
  space:
    loss.kdd: {uniform: [0, 1]}
    loss.kd: {uniform: [2, 1]}
    loss.temperature: {unifrm: [1, 2]}
"""
    assert places(text) == [
        (2, "experiment"),
        (3, "protocol"),
        (4, "seeds"),
        (6, "data.name"),
        (7, "data.trian_images"),
        (9, "model.name"),
        (12, "degradations.1"),
        (13, "methods.1"),
        (15, "base.epochs"),
        (16, "base.optimizer.lr"),
        (18, "base.loss.ce"),
        (19, "7"),
        (20, "evaluation"),
        (23, "resources.gpus_per_worker"),
        (26, "search.space.loss.kdd"),
        (27, "search.space.loss.kd"),
        (28, "search.space.loss.kd.temperature.unifrm"),
    ]
    said = {key: message for _, key, message in mistakes(text)}
    assert "did you mean 'train_images'?" in said["data.trian_images"]
    assert "did you mean 'cifar10'?" in said["data.name"] and "did you mean 'blur'?" in said["degradations.1"]
    assert "6n+2" in said["model.name"] and "did you mean 'loss.kd'?" in said["search.space.loss.kdd"]
    assert "did you mean 'uniform'?" in said["search.space.loss.kd.temperature.unifrm"]
    assert "not 'fast'" in said["base.optimizer.lr"] and "given twice: 1" in said["seeds"]
    with pytest.raises(ConfigError, match=r"(?s)^file\.yaml: 17 mistakes\n  line 2: experiment: .*line 28: "):
        config_file.parse(text, source="file.yaml")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("experiment: x\nseeds: [1\nbase: {}\n", 3, "not valid YAML"),
        ("experiment: x\nbase: {epochs: 1}\nbase: {epochs: 2}\n", 3, "'base' is given twice"),
        ("experiment: x\nbase:\n  epochs: 1\n  epochs: 1\n", 4, "'epochs' is given twice"),
        ("experiment: x\nbase: &b {epochs: 1}\nfusing: *b\n", 3, "aliases"),
        ("experiment: x\nbase: &b {epochs: 1}\nfusing:\n  <<: *b\n", 4, "aliases"),
        ("experiment: x\n? [1, 2]\n: 3\n", 2, "a key must be plain text"),
        ("experiment: !!python/object/apply:os.system ['true']\n", 1, "not valid YAML: could not determine"),
        ("experiment: x\n--- \nexperiment: y\n", 2, "single document"),
        ("- experiment\n", 1, "must be a mapping"),
        ("just text\n", 1, "must be a mapping"),
        ("[" * 500 + "]" * 500 + "\n", 1, "nested too deeply"),
        ("experiment: \x00\n", 1, "not valid YAML"),
    ],
)
def test_what_is_no_mapping_of_keys(text: str, line: int, message: str) -> None:
    ((found, key, said),) = mistakes(text)
    assert (found, key) == (line, "") and message in said


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_lacks_its_name(text: str) -> None:
    assert mistakes(text) == [(1, "experiment", "is missing")]


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("protocol: paper\nsearch: {space: {loss.kd: {uniform: [0, 1]}}}\n", 3, "search", "not under protocol paper"),
        ("select: test\n", 2, "select", "leak"),
        ("data: {validation: 0}\n", 2, "data.validation", "nothing to select on"),
        (
            "protocol: paper\nmodelsoups: {start: {merge: wise_ft, alpha: [0.1, 0.2]}}\n",
            3,
            "modelsoups.start",
            "a list of alpha chooses on validation images, and data.validation is 0",
        ),
        (
            "select: last\ndata: {validation: 0}\nmodelsoups: {start: {merge: greedy_soup}}\n",
            4,
            "modelsoups.start",
            "greedy_soup chooses on validation images",
        ),
        ("modelsoups: {start: {merge: wise_ft, alpha: [0.1, 2]}}\n", 2, "modelsoups.start.alpha.1", "equal to 1"),
        ("protocol: paper\nselect: validation\n", 1, "data.validation", "nothing to select on"),
        ("search: {space: {}}\n", 2, "search.space", "empty search space"),
        ("search: {trials: 3}\n", 2, "search.space", "is missing"),
        ("search: {space: {loss: {uniform: [0, 1]}}}\n", 2, "search.space.loss", "no key of the recipe"),
        ("search: {space: {loss.kd: {choice: []}}}\n", 2, "search.space.loss.kd", "an empty choice"),
        ("search: {space: {loss.kd: {}}}\n", 2, "search.space.loss.kd", "exactly one of"),
        ("search: {space: {loss.kd: {uniform: [-1, 1]}}}\n", 2, "search.space.loss.kd", "cannot be -1"),
        (
            "search: {space: {loss.kd: {loguniform: [0, 1]}}}\n",
            2,
            "search.space.loss.kd.loguniform.0",
            "greater than 0",
        ),
        ("search: {space: {batch_size: {choice: [8, many]}}}\n", 2, "search.space.batch_size", "cannot be 'many'"),
        ("search: {space: {batch_size: {uniform: [8, 64]}}}\n", 2, "search.space.batch_size", "use integers"),
        ("search: {space: {loss.kd: {grid: [0.5, null]}}}\n", 2, "search.space.loss.kd", "cannot be None"),
        ("search: {space: {loss.kd: {grid: ['0.5']}}}\n", 2, "search.space.loss.kd", "a number is meant"),
        ("search: {space: {loss.kd: {grid: []}}}\n", 2, "search.space.loss.kd", "an empty grid"),
        ("search: {space: {optimizer.lr: {grid: [1, 0]}}}\n", 2, "search.space.optimizer.lr", "cannot be 0"),
        ("search: {space: {optimizer.lrr: {grid: [1]}}}\n", 2, "search.space.optimizer.lrr", "mean 'optimizer.lr'?"),
        ("search: {space: {epochs: {grid: [1]}}}\n", 2, "search.space.epochs", "is not for a search"),
        (
            "search: {space: {schedule.milestones: {choice: [[0.5, 0.1]]}}}\n",
            2,
            "search.space.schedule.milestones",
            "must ascend",
        ),
        ("search: {space: {fusion.methods: {choice: [ties]}}}\n", 2, "search.space.fusion.methods", "'start.merge'?"),
        (
            "search: {space: {fusion.method: {choice: [tie]}}}\n",
            2,
            "search.space.start.merge",
            "did you mean 'ties'?",
        ),
        ("search: {space: {fusion.method: {integers: [0, 2]}}}\n", 2, "search.space.start.merge", "needs a choice"),
        (
            "search: {space: {fusion.recalibrate: {grid: [per_degradation]}}}\n",
            2,
            "search.space.start.recalibrate",
            "known: none, average, mixed",
        ),
        ("search:\n  searcher: optuna\n  space: {loss.kd: {grid: [1]}}\n", 4, "search.space.loss.kd", "use choice"),
        ("data: {name: folder}\n", 2, "data", "needs root"),
        ("model: {name: cifar_resnet57}\n", 2, "model.name", "not 57"),
        ("model: {name: cifar_resnet2}\n", 2, "model.name", "not 2"),
        ("model: {name: resnet19}\n", 2, "model.name", "did you mean 'resnet18'?"),
        ("base: {loss: {ce: 0}}\n", 2, "base.loss", "all weights are 0"),
        ("base: {optimizer: {lr: .nan}}\n", 2, "base.optimizer.lr", "a finite number, not nan"),
        ("base: {schedule: {milestones: [0.7, 0.3]}}\n", 2, "base.schedule.milestones", "must ascend"),
        ("base: {checkpoint: 5}\n", 2, "base.checkpoint", "should be text, not 5"),
        ("fusing: {checkpoint: {jpeg: a}}\n", 2, "fusing.checkpoint", "for train_on: each"),
        ("expert:\n  checkpoint:\n    jpg: a\n", 4, "expert.checkpoint.jpg", "did you mean 'jpeg'?"),
        ("expert: {checkpoint: /dev/null}\n", 2, "expert.checkpoint", "put {degradation} in it"),
        ("base: {checkpoint: nowhere.pt}\n", 2, "base.checkpoint", "no such checkpoint: nowhere.pt"),
        ("plugins:\n- nowhere.py\n", 3, "plugins.0", "nowhere.py cannot be read"),
        ("base:\n  resized_crop: [0.3, 0.5, 1]\n", 3, "base.resized_crop", "at most 2 items"),
        ("base:\n  resized_crop: [0.3, 1.5]\n", 3, "base.resized_crop.1", "less than or equal to 1"),
        ("base:\n  resized_crop: [0.9, 0.3]\n", 3, "base.resized_crop", "0.9 is above 0.3"),
        (
            "base: {resized_crop: [0.5, 1], resized_crop_ratio: [0, 1]}\n",
            2,
            "base.resized_crop_ratio.0",
            "greater than 0",
        ),
        ("base:\n  class_weights: balance\n", 3, "base.class_weights", "must be none, balanced, a list"),
        ("base: {class_weights: {a: -1}}\n", 2, "base.class_weights", "above 0, and that of a is -1"),
        ("base: {class_weights: []}\n", 2, "base.class_weights", "must be none, balanced, a list"),
        ("base: {class_weight: balanced}\n", 2, "base.class_weight", "did you mean 'class_weights'?"),
        ("base: {sampling: equal}\n", 2, "base.sampling", "'uniform' or 'balanced'"),
        ("search: {space: {sampling: {choice: [some]}}}\n", 2, "search.space.sampling", "cannot be 'some'"),
        ("search: {space: {class_weights: {choice: [odd]}}}\n", 2, "search.space.class_weights", "cannot be 'odd'"),
        ("degradations: [{blur: 0..20}]\n", 2, "degradations.0", "write {name: blur, levels: 0..20}"),
        (
            "evaluation: {unseen: [{haze: {levels: 0..2}}]}\n",
            2,
            "evaluation.unseen.0",
            "write {name: haze, levels: 0..2}",
        ),
        (
            "degradations: {blur: 0..20}\n",
            2,
            "degradations",
            "must be a list, and this is a mapping: write [blur, ...]",
        ),
        ("evaluation: {unseen: {name: fog}}\n", 2, "evaluation.unseen", "write [{name: ...}, ...]"),
        ("methods: {base: 1}\n", 2, "methods", "must be a list, and this is a mapping: write [base, ...]"),
        ("base: {learning_rate: 0.1}\n", 2, "base.learning_rate", "did you mean base.optimizer.lr?"),
        ("base:\n  wd: 0.1\n", 3, "base.wd", "did you mean base.optimizer.weight_decay?"),
        ("base: {num_epochs: 3}\n", 2, "base.num_epochs", "did you mean 'epochs'?"),
        ("dataset: digits\n", 2, "dataset", "did you mean 'data'?"),
        ("search:\n  space:\n    loss:\n      kdd: {uniform: [0, 1]}\n", 5, "search.space.loss.kdd", "mean 'loss.kd'?"),
        ("methods: []\n", 2, "methods", "needs 1 or more"),
        ("experiment_: 1\n", 2, "experiment_", "did you mean 'experiment'?"),
    ],
)
def test_rules(text: str, line: int, key: str, message: str) -> None:
    found = mistakes(OK + text)
    assert [(where, what) for where, what, _ in found] == [(line, key)], found
    assert message in found[0][2]


def test_dimensions_may_stand_below_one_another() -> None:
    plain = "{loss.kd: {loguniform: [0.1, 1]}, loss.kd.temperature: {uniform: [1, 8]}, optimizer.lr: {grid: [1]}}"
    below = "{loss: {kd: {loguniform: [0.1, 1], temperature: {uniform: [1, 8]}}}, optimizer: {lr: {grid: [1]}}}"
    (expected,) = config_file.parse(OK + f"search: {{space: {plain}}}\n").search
    assert config_file.parse(OK + f"search: {{space: {below}}}\n").search == (expected,)
    assert config_file.parse(OK + f"search: [{{space: {below}}}]\n").search == (expected,)
    forms = ["loss.kd.loguniform=[0.1, 1]", "loss.kd.temperature.uniform=[1, 8]", "optimizer.lr={grid: [1]}"]
    overrides = [f"search.space.{form}" for form in forms]
    other = "search: {space: {loss.kd: {uniform: [0, 1]}}}\n"  # one form replaces another
    for text in ("", other):
        (found,) = config_file.parse(OK + text, overrides=overrides).search
        assert found.space == expected.space
    assert mistakes(OK, "search.space.loss.kd.loguniform=[0, 1]") == [
        (None, "search.space.loss.kd.loguniform.0", "input should be greater than 0, not 0")
    ]


def test_all_methods_are_those_that_a_table_has_by_default() -> None:
    text = "experiment: x\ndefine: {mine: {like: fusing}}\n"
    for said in ("all", "[all]"):
        assert config_file.parse(f"{text}methods: {said}\n") == config_file.parse(text)
    own = "experiment: x\ndefine: {all: {like: fusing}}\nmethods: all\n"
    assert config_file.parse(own).methods == ("all",)


def test_overrides() -> None:
    text = "experiment: x\nbase: {epochs: 5}\n"
    overrides = ["base.epochs=7", "seeds=[4, 5]", "data.name=cifar10", "expert.optimizer.lr=1e-4", "experiment=y=z"]
    with pytest.raises(ConfigError):
        config_file.parse(text, overrides=overrides)  # y=z is no name
    config = config_file.parse(text, overrides=overrides[:-1])
    assert (config.table["base"].epochs, config.seeds, config.data.name, config.table["expert"].optimizer.lr) == (
        7,
        (4, 5),
        "cifar10",
        1e-4,
    )
    bad = ["base.epoch=7", "base.epochs.more=7", "nothing", "=5", "seeds=[1", "a..b=1", "data.validation=2", "model=3"]
    found = mistakes("experiment: x\nbase: {epochs: 0}\n", *bad)
    assert {line for line, _, _ in found} == {None, 2}
    assert sorted(key for line, key, _ in found if line is None) == sorted(
        ["base.epoch", "base.epochs", "", "", "seeds", "", "data.validation", "model"]
    )
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, overrides=["base.epoch=7"])
    assert str(caught.value) == "config: 1 mistake\n  --set: base.epoch: unknown key; did you mean 'epochs'?"


@pytest.mark.parametrize("off", ["search: false\n", "search: null\n", "search:\n", ""])
def test_no_search_is_one_line(off: str) -> None:
    assert config_file.parse(OK + off).search == ()


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    def said(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            config_file.load(name)
        return str(caught.value)

    assert "did you mean 'quickstart'?" in said("quickstrat") and "cifar10" in said("quickstrat")
    assert "no such file" in said(str(tmp_path / "quickstart.yaml"))
    assert "no such file" in said("elsewhere/quickstart.yaml")
    assert "is a folder" in said(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes("experiment: caf\xe9\n".encode("latin-1"))
    assert "not UTF-8" in said(str(tmp_path / "latin.yaml"))
    (tmp_path / "huge.yaml").write_bytes(b"#" * 1_000_001)
    assert "1,000,001 bytes" in said(str(tmp_path / "huge.yaml"))


def test_the_shipped_configs_are_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "configs"
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in folder.glob("*.yaml")]
    assert "quickstart" in names
    for name in names:
        assert config_file.load(name) == config_file.load(f"configs/{name}.yaml")
        paper = config_file.load(name, ["protocol=paper", "search=null", "fusion.recalibrate=null"])
        assert paper.held_out == (paper.data.validation or 0), name


def _keys(node: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield (*above, key)
        yield from _keys(value, (*above, key))


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar100", "tiny_imagenet", "cifar10_small", "quickstart", "search_bench"]
)
def test_shipped_configs_say_only_what_differs_from_the_defaults(name: str) -> None:
    """Left out, each key makes another config, or none; what an experiment is may be said all the same."""
    file = Path(__file__).parent.parent / "configs" / f"{name}.yaml"
    content, whole = safe_yaml.read(file.read_text())[0], config_file.load(str(file))
    for *above, key in _keys(content):
        if (*above, key)[0] in ("experiment", "protocol", "seeds", "data", "model") or "space" in above:
            continue
        less = deepcopy(content)
        inner = less
        for part in above:
            inner = inner[part]
        del inner[key]
        try:
            same = config_file.parse(json.dumps(less)) == whole
        except ConfigError:
            continue
        assert not same, f"{name}: {'.'.join((*above, key))} is the default"


# METHOD's schedule table: optimiser, learning rate, epochs, and the epochs (from 0) at which the rate drops.
TABLE = {
    "base": ("sgd", 0.1, 200, (60, 120, 160)),
    "scratch": ("sgd", 0.1, 200, (60, 140, 180)),
    "vanilla": ("radam", 1e-3, 200, (60, 140, 180)),
    "fusing": ("radam", 1e-3, 100, (30, 70, 90)),
    "fusiondistill": ("radam", 1e-3, 100, (30, 70, 90)),
}


@pytest.mark.parametrize("role", TABLE)
def test_step_schedules_are_the_papers(role: str) -> None:
    recipe: Recipe = config_file.parse(OK).table[role].recipe
    optimizer, lr, epochs, drops = TABLE[role]
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.epochs) == (optimizer, lr, epochs)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay, recipe.batch_size) == (0.9, 1e-4, 128)
    rates = [recipe.schedule.rate(epoch, epochs) for epoch in range(epochs)]
    changes = tuple(epoch for epoch in range(1, epochs) if rates[epoch] != rates[epoch - 1])
    assert changes == drops and rates[0] == 1
    assert [rates[epoch] for epoch in drops] == pytest.approx([0.2, 0.04, 0.008])


def test_the_experts_schedule_is_a_cosine_to_zero() -> None:
    expert = config_file.parse(OK).table["expert"]
    assert (expert.optimizer.name, expert.optimizer.lr, expert.optimizer.weight_decay) == ("radam", 1e-3, 1e-4)
    rates = [expert.schedule.rate(epoch, 100) for epoch in (0, 25, 50, 75, 99, 100)]
    assert expert.epochs == 100
    assert rates == pytest.approx([1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0.000246719, 0], abs=1e-8)


def test_losses_pipelines_and_protocols_are_the_papers() -> None:
    config = config_file.parse(OK)
    weights = {role: tuple(config.table[role].loss.weight(term) for term in ("ce", "feature", "kd")) for role in ROLES}
    assert weights["expert"] == (1, 1, 0) and weights["fusiondistill"] == (0.1, 1, 0)
    assert {weights[role] for role in ("base", "scratch", "vanilla", "fusing")} == {(1, 0, 0)}
    assert all(r.crop_padding == 4 and r.teacher_view == "clean" for r in (config.table[role] for role in ROLES))
    assert [one.id for one in config.degradations] == ["jpeg", "blur", "noise", "saltpepper"]
    assert config.model.name == "cifar_resnet56"
    assert (config.epoch_choice, config.held_out) == ("validation", 0.1)
    paper = config_file.parse(OK + "protocol: paper\n")
    assert (paper.epoch_choice, paper.held_out) == ("test", 0.0)
    assert config.evaluation.every == 1 and config.evaluation.seed == 123


def test_what_is_given_keeps_the_other_defaults_of_a_method() -> None:
    config = config_file.parse(
        "experiment: x\nfusiondistill: {optimizer: {lr: 1e-2}, loss: {kd: 2}}\n"
        "base: {epochs: 10, schedule: {name: steps, milestones: [0.3, 0.6, 0.8], factor: 0.5}}\nexpert:\n"
    )
    tuned = config.table["fusiondistill"]
    assert (tuned.optimizer.name, tuned.optimizer.lr, tuned.optimizer.weight_decay) == ("radam", 0.01, 1e-4)
    assert [tuned.loss.weight(term) for term in ("ce", "feature", "kd")] == [0.1, 1, 2] and tuned.epochs == 100
    rates = [config.table["base"].schedule.rate(epoch, 10) for epoch in range(10)]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert config.table["expert"] == config_file.parse(OK).table["expert"]
    replaced = config_file.parse("experiment: x\nvanilla: {schedule: {name: cosine}}\n").table["vanilla"].schedule
    assert replaced.milestones == ()  # a schedule replaces the default as a whole


def test_a_recipe_with_other_values_is_checked_again() -> None:
    recipe = config_file.parse(OK).table["fusiondistill"].recipe
    other = with_keys(recipe, {"loss.kd": 2, "epochs": 3})
    assert [other.loss.weight(term) for term in ("kd", "ce")] == [2, 0.1] and other.epochs == 3
    assert recipe.loss.weight("kd") == 0
    for bad in ("loss", "loss.kdd", "nothing", "loss.kd.more", "epochs.more"):
        with pytest.raises(KeyError):
            with_keys(recipe, {bad: 1})
    with pytest.raises(ValueError, match="greater than 0"):
        with_keys(recipe, {"loss.kd.temperature": 0})


def test_threads_follow_cpus() -> None:
    for cpus, threads in ((0.25, 1), (1, 1), (3.9, 3)):
        assert config_file.parse(OK, overrides=[f"resources.cpus_per_worker={cpus}"]).threads == threads
    assert config_file.parse(OK, overrides=["resources.threads=2"]).threads == 2
    assert isinstance(config_file.parse(OK), Config)


def test_optuna_is_asked_for_only_where_it_is_needed_and_named_where_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = OK + "search:\n  searcher: optuna\n  space: {loss.kd: {uniform: [0, 1]}}\n"
    assert config_file.parse(text).search is not None
    monkeypatch.setitem(sys.modules, "optuna", None)  # Python's own way of saying that there is no such module
    ((line, key, message),) = mistakes(text)
    assert key == "search.searcher" and line > 1
    assert message == "optuna is not installed: pip install 'fusiondistill[optuna]'"
    assert config_file.parse(text.replace("optuna", "random")).search is not None
