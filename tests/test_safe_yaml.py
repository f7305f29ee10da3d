"""Numbers in YAML are those that people write, in every place of a config alike."""

from __future__ import annotations

from typing import Any

import pytest

from fusiondistill.config_file import parse
from fusiondistill.safe_yaml import read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-2", 0.01), ("1e1", 10.0), ("1E+3", 1000.0), ("-2e-05", -2e-05), ("+1e3", 1000.0), (".5", 0.5), ("5.", 5.0),
        ("1.5e3", 1500.0), ("1_000", 1000), ("010", 10), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("0b11", 3),
        ("12:30", "12:30"), ("2026-11-28", "2026-11-28"), ("e3", "e3"), ("1e", "1e"), ("1.2.3", "1.2.3"),
        ("'1e3'", "1e3"), ("true", True), ("null", None), ("-.inf", float("-inf")),
    ],
)  # fmt: skip
def test_a_plain_value(text: str, value: Any) -> None:
    (found,) = read(f"- {text}")[0]
    assert found == value and type(found) is type(value)
    assert read(f"{text}: 1")[0] == {text.strip("'"): 1}  # a key is a text


@pytest.mark.parametrize(
    "form", ["loguniform: [1e-2, 1e1]", "uniform: [1e-2, 1e1]", "choice: [1e-2, 1e1]", "grid: [1e-2, 1e1]"]
)
def test_a_search_takes_the_numbers_that_a_recipe_takes(form: str) -> None:
    config = parse(
        f"experiment: x\nfusiondistill: {{loss: {{kd: 1e-2}}}}\nsearch: {{space: {{loss.kd: {{{form}}}}}}}\n"
    )
    dimension = config.search[0].space["loss.kd"]
    assert next(values for values in dimension.model_dump(exclude_none=True).values()) in ((0.01, 10.0), [0.01, 10.0])


def test_a_sweep_and_an_override_take_them_too() -> None:
    text = "experiment: x\nsweep: {fusing.optimizer.lr: [1e-3, 1e-2]}\n"
    config = parse(text, overrides=["search.space={loss.kd: {loguniform: [1e-2, 1e1]}}", "base.epochs=1e1"])
    assert config.sweep == {"fusing.optimizer.lr": (0.001, 0.01)} and config.search[0].space["loss.kd"].loguniform
    assert config.table["base"].recipe.epochs == 10
