"""A recipe's loss as a value: what it accepts, its one form, its keys, and what of it is digested."""

from __future__ import annotations

import doctest
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import mistaken
from fusiondistill import config_file, loss
from fusiondistill.loss import FOR_DIGEST, Loss, idle_keys, merged_loss, modern_loss
from fusiondistill.losses import LOSSES
from fusiondistill.objectives import Objective
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill.recipe import Recipe, flat, with_keys
from fusiondistill.recipes import RECIPES

KD = {"weight": 0.5, "temperature": 4.0}
RECIPE = Recipe.model_validate(RECIPES["paper"]["all-merged-taught"])


def problems(given: Any) -> dict[str, str]:
    """Dotted place -> message of all that is wrong with a loss in a recipe."""
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({**RECIPES["paper"]["clean"], "loss": given})
    return {".".join(map(str, one["loc"])): one["msg"] for one in caught.value.errors()}


def test_all_spellings_of_a_loss_are_one_value() -> None:
    same = [
        {"kd": 0.5},
        {"kd": "0.5", "ce": 1},
        {"kd": {"weight": 0.5}, "ce": {"weight": 1}},
        {"kd": {"temperature": 4, "weight": 0.5}},
        {"temperature": 4, "kd": 0.5},
    ]
    values = [Loss(one) for one in same]
    assert all(one == values[0] and hash(one) == hash(values[0]) for one in values)
    assert values[0].model_dump() == {"ce": {"weight": 1.0}, "kd": KD} and list(values[0].root) == ["ce", "kd"]
    again = Loss.model_validate_json(values[0].model_dump_json())
    assert again == values[0] == pickle.loads(pickle.dumps(again))
    assert Recipe.model_validate({**RECIPES["paper"]["clean"], "loss": again}).loss == again


def test_a_term_of_weight_0_is_kept_and_not_digested() -> None:
    plain, more = Loss({"ce": 0.1, "kd": 0.5}), Loss({"ce": 0.1, "kd": 0.5, "dkd": {"weight": 0, "beta": 2}})
    assert plain != more and more.root["dkd"]["beta"] == 2 and set(more.weighted) == {"ce", "kd"}
    assert plain.model_dump(context=FOR_DIGEST) == more.model_dump(context=FOR_DIGEST) == plain.model_dump()
    recipes = [RECIPE.model_copy(update={"loss": one}) for one in (plain, more)]
    digested = [one.model_dump(mode="json", context=FOR_DIGEST) for one in recipes]
    assert digested[0] == digested[1] and "dkd" in recipes[1].model_dump()["loss"]
    assert (plain.weight("kd"), plain.weight("dkd")) == (0.5, 0.0)


def test_every_mistake_is_found_at_its_key() -> None:
    found = problems(
        {"kdd": 1, "kd": -1, "feature": None, "dkd": {"weight": 1, "bta": 3, "alpha": "x", "temperature": 0}}
    )
    assert set(found) == {
        "loss.kdd", "loss.kd", "loss.feature", "loss.dkd.bta", "loss.dkd.alpha", "loss.dkd.temperature"
    }  # fmt: skip
    assert found["loss.kdd"] == "no loss term 'kdd'; did you mean 'kd'?"
    assert found["loss.dkd.bta"] == "unknown key; did you mean 'beta'?"
    assert problems({"dkd": {"weight": -1}}).keys() == {"loss.dkd.weight"}
    assert "needs a weight" in problems({"dkd": {"beta": 2}})["loss.dkd"]
    assert "all weights are 0" in problems({"ce": 0, "dkd": 0})["loss"]
    assert problems(5).keys() == {"loss"} and problems({3: 1}).keys() == {"loss.3"}
    text = "experiment: x\nfusiondistill:\n  loss:\n    ce: 0.1\n    dkd:\n      weight: 1\n      beta: -1\n"
    with pytest.raises(config_file.ConfigError, match=r"line 7: fusiondistill\.loss\.dkd\.beta: .*, not -1"):
        config_file.parse(text)


def test_the_old_temperature_is_kds() -> None:
    raw = {"ce": 1, "temperature": 2}
    new, messages = modern_loss(raw)
    assert new == {"ce": 1, "kd": {"weight": 0.0, "temperature": 2}} and raw == {"ce": 1, "temperature": 2}
    assert len(messages) == 1 and "loss.kd.temperature" in messages[0]
    assert modern_loss({"kd": {"weight": 1}, "temperature": 2})[0] == {"kd": {"weight": 1, "temperature": 2}}
    for untouched in ({"kd": 1}, None, 3, [1]):
        assert modern_loss(untouched) == (untouched, [])
    assert "loss.temperature" in problems({"kd": KD, "temperature": 2}), "said twice"


def test_a_loss_is_laid_over_another_term_by_term() -> None:
    old = {"ce": 0.1, "feature": 1.0, "kd": {"weight": 0.5, "temperature": 3}}
    for given, expected in (
        ({"kd": 2}, {**old, "kd": {"weight": 2, "temperature": 3}}),
        ({"kd": {"temperature": 1}}, {**old, "kd": {"weight": 0.5, "temperature": 1}}),
        ({"ce": {"weight": 1}}, {**old, "ce": {"weight": 1}}),
        ({"dkd": {"weight": 1, "beta": 2}}, {**old, "dkd": {"weight": 1, "beta": 2}}),
        ({"feature": 0}, {**old, "feature": 0}),
    ):
        assert merged_loss(old, given) == expected
    assert merged_loss(old, "nonsense") == "nonsense" and merged_loss(None, {"kd": 1}) == {"kd": 1}


def test_weights_and_parameters_are_keys() -> None:
    found = with_keys(RECIPE, {"loss.kd": 0.5, "loss.kd.temperature": 2, "loss.dkd.beta": 3.0, "loss.ce.weight": 0.2})
    assert found.loss.model_dump() == {
        "ce": {"weight": 0.2}, "feature": {"weight": 1.0}, "kd": {"weight": 0.5, "temperature": 2.0},
        "dkd": {"weight": 0.0, "alpha": 1.0, "beta": 3.0, "temperature": 4.0},
    }  # fmt: skip
    assert with_keys(found, {"loss.kd": 1}).loss.root["kd"] == {"weight": 1.0, "temperature": 2.0}
    for bad in ("loss", "loss.kdd", "loss.kd.beta", "loss.kd.temperature.more", "loss."):
        with pytest.raises(KeyError, match=bad):
            with_keys(RECIPE, {bad: 1})
    keys = flat(RECIPE)
    assert keys["loss.feature"] == 1.0 and (keys["loss.dkd"], keys["loss.dkd.beta"]) == (0.0, 8.0)
    assert keys["schedule.milestones"] == [0.3, 0.7, 0.9] and keys["optimizer.lr"] == 1e-3
    assert with_keys(RECIPE, {key: value for key, value in keys.items() if key != "checkpoint"}).loss.weighted == {
        "ce": {"weight": 0.1}, "feature": {"weight": 1.0}
    }  # fmt: skip


def test_keys_without_effect() -> None:
    keys = flat(RECIPE)
    below = {term: {key for key in keys if key.startswith(f"loss.{term}.")} for term in LOSSES}
    assert below["dkd"] >= {"loss.dkd.alpha", "loss.dkd.beta", "loss.dkd.temperature", "loss.dkd.warmup"}
    idle = set[str]().union(*(found for term, found in below.items() if term not in ("ce", "feature")))
    assert idle_keys(keys) == idle
    assert idle_keys({**keys, "loss.kd": 1}) == idle - below["kd"]
    assert "teacher_view" in idle_keys({**keys, "loss.feature": 0})
    assert "teacher_view" not in idle_keys({**keys, "loss.feature": 0, "loss.dkd": 1})
    assert idle_keys({"loss.ce": 0}) == set(), "of terms that are not told nothing is known"


@pytest.fixture
def plugged() -> Iterator[None]:
    load_plugins(read_plugins([str(Path(__file__).parent / "plugins" / "needy.py")]))
    yield
    LOSSES.forget("needy.py")


@pytest.mark.usefixtures("plugged")
def test_a_plugins_term_is_a_key_like_any_other() -> None:
    assert flat(RECIPE)["loss.needy"] == 0.0 and "loss.needy.depth" not in flat(RECIPE), "it has no default"
    found = with_keys(RECIPE, {"loss.needy": 1, "loss.needy.depth": 3})
    assert found.loss.root["needy"] == {"weight": 1.0, "depth": 3} and list(found.loss.root)[-1] == "needy"
    assert problems({"needy": 1}) == {"loss.needy.depth": "Field required"}
    assert "is a column of the metrics" in problems({"lr": 1})["loss.lr"]


def test_examples_run() -> None:
    tried = doctest.testmod(loss)
    assert tried.attempted > 0 and tried.failed == 0


def test_a_number_and_a_mapping_go_over_each_other_from_the_command_line_and_in_a_sweep() -> None:
    text = "experiment: x\nfusiondistill: {loss: {kd: 0.5, dkd: {weight: 1, beta: 2}}}\n"
    over = ["fusiondistill.loss.kd.temperature=2", "fusiondistill.loss.dkd=0.25", "fusiondistill.loss.feature=0"]
    found = config_file.parse(text, overrides=over).table["fusiondistill"].loss
    assert found.root["kd"] == {"weight": 0.5, "temperature": 2.0} and found.weight("feature") == 0
    assert (found.root["dkd"]["weight"], found.root["dkd"]["beta"]) == (0.25, 2.0)
    for key in ("temperature", "kd.temperature"):
        _, points = config_file.parse_points(text + f"sweep: {{fusiondistill.loss.{key}: [1, 3]}}\n")
        assert [p.table["fusiondistill"].loss.root["kd"] for p in points] == [
            {**KD, "temperature": t} for t in (1.0, 3.0)
        ]
        one = config_file.parse(text, overrides=[f"fusiondistill.loss.{key}=7"])
        assert one.table["fusiondistill"].loss.root["kd"] == {**KD, "temperature": 7.0}
    (wrong,) = _mistakes(text, "fusiondistill.loss.dkd.beta=-1")
    assert str(wrong).startswith("--set: fusiondistill.loss.dkd.beta: ")


def _mistakes(text: str, override: str) -> list[config_file.Mistake]:
    return mistaken.mistakes(lambda: config_file.parse(text, overrides=[override]))


def test_a_term_with_a_parameter_of_its_own_type_is_plain_until_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "sided.py").write_text("""
from enum import Enum
from fusiondistill.losses import LOSSES

class Side(Enum):
    UP = "up"
    DOWN = "down"

@LOSSES.register("sided", needs="nothing")
def sided(student, teacher, labels, *, side: Side = Side.UP, steps: tuple[int, ...] = (1, 2)):
    "The mean logit up or down."
    assert isinstance(side, Side) and isinstance(steps, tuple)
    return student.logits.mean() * (1 if side is Side.UP else -1)
""")
    load_plugins(read_plugins([str(tmp_path / "sided.py")]))
    loss = Loss.model_validate({"ce": 0, "sided": {"weight": 2, "side": "down"}})
    assert loss.root["sided"] == {"weight": 2.0, "side": "down", "steps": [1, 2]}
    assert b"plugin_sided" not in pickle.dumps(loss), "another process reads it before it has loaded the plugin"
    without = Loss.model_validate({}).flat()
    assert without == json.loads(json.dumps(without)) and without["sided.side"] == "up"
    total, _ = Objective(loss).loss(torch.ones(2, 3), None, torch.zeros(2, dtype=torch.int64), [slice(0, 2)])
    assert total == -2
    LOSSES.forget("sided.py")
