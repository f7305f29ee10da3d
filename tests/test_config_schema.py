"""The JSON Schema and the list of keys say what the loader does; jsonschema validates against the former."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from documents import PAGES, blocks
from fusiondistill import LOSSES, safe_yaml
from fusiondistill.config import Config
from fusiondistill.config_file import ConfigError, parse
from fusiondistill.config_keys import config_keys, config_lines
from fusiondistill.config_schema import SCHEMA_FILE, config_schema, schema_text
from fusiondistill.methods import METHODS, Combined, Merged, Trained

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SHOWN = [block.text for path in PAGES.values() for block in blocks(path.read_text()) if block.language == "yaml"]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = config_schema()
    Draft202012Validator.check_schema(schema)
    assert "\\\\-" not in schema_text()  # no escape in JavaScript's regular expressions
    return Draft202012Validator(schema)


def problems(validator: Draft202012Validator, text: str) -> list[str]:
    content = {"experiment": "x", **safe_yaml.read(text)[0]}
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(content)]


def test_the_shipped_schema_is_current() -> None:
    assert (ROOT / "configs" / SCHEMA_FILE).read_text() == schema_text(), "make schema writes it"


def test_the_shipped_configs_and_those_of_pages_are_valid(validator: Draft202012Validator) -> None:
    for path in CONFIGS:
        assert problems(validator, path.read_text()) == [], path.name
        assert f"# yaml-language-server: $schema={SCHEMA_FILE}\n" in path.read_text(), path.name
    assert len(SHOWN) > 10
    for text in SHOWN:
        assert problems(validator, text) == [] or "margin" in text, text

    @LOSSES.register("margin")
    def margin(student: Any, teacher: Any, labels: Any, *, width: float = 1.0) -> None:
        """The plugin of a page."""

    with_plugin = Draft202012Validator(config_schema())
    assert not any(problems(with_plugin, text) for text in SHOWN if "margin" in text)


@pytest.mark.parametrize(
    "text",
    [
        "experiment: a/b", "protocol: papers", "seed: 0", "seeds: 3", "seeds: [0, 0]", "seeds: [a]", "methods: []",
        "data: {name: digitz}", "data: {roots: x}", "data: {test: 1.5}", "data: {size: 1}", "data: {background: pink}",
        "data: {name: cifar10, broken: skip}", "model: {name: resnet19}", "model: {name: resnet18, img_size: [8, 8]}",
        "model: resnett", "degradations: blurr", "degradations: [{name: blur, levels: [51]}]", "degradations: []",
        "degradations: [{name: blur, as: A}]", "degradations: [{name: blur, levels: 5}]", "base: {epoch: 3}",
        "base: {epochs: 0}", "base: {epochs: many}", "base: {optimizer: {learning_rate: 1}}", "base: {optimizer: adam}",
        "base: {optimizer: {lr: 0}}", "base: {optimizer: {momentum: 1}}", "base: {schedule: {name: step}}",
        "expert: {loss: {kl: 1}}", "expert: {loss: {kd: {T: 2}}}", "expert: {loss: {kd: -1}}", "base: {like: vanilla}",
        "expert: {loss: {kd: {temperature: 0}}}", "base: {class_weights: even}", "base: {cutout: -1}", "base: 3",
        "modelsoups: {start: {merge: tie}}", "modelsoups: {start: {merge: average, density: 0.2}}",
        "modelsoups: {start: {merge: linear}}", "modelsoups: {start: {merge: ties, density: 2}}",
        "oracle: {inference: {name: voted}}", "define: {base: {like: vanilla}}", "define: {A: {like: base}}",
        "define: {a: {like: base, trainon: all}}", "define: {a: null}", "evaluation: {every: 0}", "evaluation: {k: 1}",
        "evaluation: {unseen: null}", "resources: {workers: 0}", "resources: {gpus: 1}", "tracking: mlflow",
        "tracking: {mlflow: 3}", "search: {trials: 3}", "search: {space: {}}", "search: random", "select: best",
        "search: {space: {loss.kl: {uniform: [0, 1]}}}", "search: {space: {loss.kd: {range: [0, 1]}}}",
        "search: {space: {loss.kd: {uniform: [0, 1], choice: [1]}}}", "search: {space: {epochs: {choice: [1]}}}",
        "search: {space: {teacher_view: {choice: [clear]}}}", "search: {space: {optimizer.lr: {uniform: [0, 1]}}}",
        "search: {space: {loss: {kd: {uniform: [0]}}}}", "search: {space: {start.density: {grid: [2]}}}",
        "sweep: {}", "sweep: {base.epochs: 3}", "sweep: {base.epoch: [3]}", "sweep: {base.epochs: [0]}",
        "sweep: {model.nam: [a]}", "sweep: {model: [resnett]}", "sweep: {seeds: [[0], [1]]}", "plugins: null",
        "sweep: {mine: [{base: {epoch: 1}}]}", "sweep: {mine: {a: {base.epoch: 1}}}", "fusion: {merge: ties}",
    ],
)  # fmt: skip
def test_what_the_loader_refuses(validator: Draft202012Validator, text: str) -> None:
    assert problems(validator, text)
    with pytest.raises(ConfigError):
        parse(text if text.startswith("experiment") else f"experiment: x\n{text}\n")


@pytest.mark.filterwarnings("ignore::fusiondistill.old_spellings.OldSpelling")
@pytest.mark.parametrize(
    "text",
    [
        "seeds: 0", "seeds: 0..3", "seeds: 0, 4", "base: {optimizer: adamw, schedule: cosine}", "model: resnet18",
        "data: digits", "degradations: 'blur, noise'", "methods: base, vanilla", "methods: all", "plugins: none",
        "evaluation: {unseen: none, corruptions: none}", "base: {checkpoint: none}", "search: 'off'", "sweep: false",
        "tracking: None", "recipe: none", "methods: null", "base: null", "define: null", "base: {epochs: null}",
        "degradations: [blur, {name: jpeg, as: mild, levels: 70..101}, {name: noise, levels: [0, 5]}]",
        "base: {cutout: null, resized_crop: [0.3, 1], class_weights: {cat: 2}, sampling: balanced}",
        "define: {a: {like: expert, teachers: null, loss: {feature: 0}}, b: {of: expert, inference: {name: vote}}}",
        "search: [{space: {loss: {kd: {uniform: [0, 1], temperature: {choice: [1, 2]}}}}}]", "model: timm/resnet18",
        "search: {space: {start.merge: {choice: [average, ties]}, start.density: {uniform: [0.1, 1]}}}",
        "search: {space: {schedule.milestones: {choice: [[0.5], [0.3, 0.6]]}, optimizer: {lr: {grid: [0.1, 1]}}}}",
        "sweep: {data: [digits, cifar10], mine: [{base.epochs: 1}, {model: {name: resnet18}}]}",
        # Old spellings, which the schema marks as deprecated.
        "fusion: {method: ties, recalibrate: mixed, images: 5}", "expert: {loss: {temperature: 3}}",
        "search: {space: {fusion.method: {choice: [average, ties]}, loss.kd: {choice: [1]}}}",
        "search: {space: {loss.temperature: {choice: [1, 2]}, loss.kd: {choice: [1]}}}",
    ],
)  # fmt: skip
def test_what_the_loader_takes(validator: Draft202012Validator, text: str) -> None:
    parse(f"experiment: x\n{text}\n")
    assert problems(validator, text) == []


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key in a schema, with what is said of it; rules and patterns of keys repeat these."""
    if isinstance(schema, dict):
        for key, one in schema.get("properties", {}).items():
            yield from ((f"{path}.{key}", one),) if isinstance(one, dict) else ()
            yield from properties(one, f"{path}.{key}")
        for key in ("anyOf", "items", "additionalProperties"):
            yield from properties(schema.get(key), path)
    for one in schema if isinstance(schema, list) else ():
        yield from properties(one, path)


def test_every_key_has_a_meaning() -> None:
    schema = config_schema()
    places = [("", schema), *schema["$defs"].items()]
    found = [(path, one) for name, place in places for path, one in properties(place, name)]
    assert len(found) > 150
    moved = (".method", ".recalibrate", ".images", ".checkpoint")  # of fusion, an old spelling
    bare = [path for path, one in found if "description" not in one and ".space." not in path]
    assert [path for path in bare if not path.endswith(moved)] == []


def fields(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_list_has_every_key_at_80_columns() -> None:
    keys = {key.path for key in config_keys()}
    assert {path[0] for path in keys} == {*fields(Config), "METHOD", "define"} - {"table"}
    of_method = {path[1] for path in keys if path[0] == "METHOD" and len(path) > 1}
    assert of_method == fields(Trained) | fields(Merged) | fields(Combined) | {"recipe"}
    lines = list(config_lines())
    assert max(map(len, lines)) <= 80 and len(lines) > 150
    assert "  lr (number), by the recipe, above 0: the highest learning rate" in "\n".join(lines)


def test_a_part_of_the_list() -> None:
    assert list(config_lines("base.optimizer.lr")) == [
        "base:", "  optimizer:", "    lr (number) = 0.1, above 0: the highest learning rate",
    ]  # fmt: skip
    assert [line.strip() for line in config_lines("nesterov")][:2] == ["METHOD:", "optimizer:"]
    assert all(next(iter(config_lines(row))).startswith(f"{row} (mapping)") for row in METHODS)
    with pytest.raises(ValueError, match=r"did you mean 'evaluation\.every'"):
        list(config_lines("evaluation.evry"))
