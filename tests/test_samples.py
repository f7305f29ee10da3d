"""The test images that evaluations keep to be looked at: which, at which levels, and that they are what was judged."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from fusiondistill import reference_degrade
from fusiondistill.config_file import parse
from fusiondistill.data import fingerprint
from fusiondistill.data.corruptions import corruption_digest
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.samples import mistake_rows, png, sample_rows
from fusiondistill_runner.planning.levels import spread
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.specs import EvaluateSpec
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import results
from fusiondistill_runner.views.sample_tables import samples_and_answers
from fusiondistill_runner.views.stage_tables import stage_tables
from fusiondistill_runner.working.context import Context
from fusiondistill_runner.working.execute import execute
from planned_report import ABOUT
from test_evaluate_stage import CPU, digits, evaluated, imported, spec_of


def pixels(data: bytes) -> Any:
    return np.array(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("classes", "size", "count"), [(10, 32, 16), (3, 64, 16), (100, 32, 16), (7, 96, 7), (1000, 224, 4), (2, 8, 16)]
)
def test_a_few_images_stand_for_all_classes(classes: int, size: int, count: int) -> None:
    labels = torch.randint(0, classes, (3000,), generator=torch.Generator().manual_seed(0))
    rows = sample_rows(labels, (size, size))
    assert len(rows) == len(set(rows.tolist())) == count and torch.equal(rows, sample_rows(labels, (size, size)))
    found = labels[rows]
    assert len(found.unique()) == min(classes, count)
    spans = found.sort().values.diff()
    assert spans.max() <= 2 * classes / min(classes, count), "spread over all classes"
    assert sample_rows(torch.tensor([3, 3, 5]), (8, 8)).tolist() == [0, 2, 1], "fewer images than are wanted"


def test_a_png_holds_exactly_the_pixels() -> None:
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert np.array_equal(pixels(png(image)), image.permute(1, 2, 0).numpy())


def test_levels_spread_over_the_whole_range_however_it_is_cut() -> None:
    assert spread(tuple(range(51)), 5) == (0, 12, 25, 38, 50)
    assert spread((1, 26, 51, 76, 101), 5) == (1, 26, 51, 76, 101) and spread((3, 9), 5) == (3, 9)
    spans = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
    text = "experiment: x\nmethods: [base]\nevaluation: {every: EVERY, piece: PIECE}\n"

    def planned(every: int, piece: int) -> list[EvaluateSpec]:
        config = parse(text.replace("EVERY", str(every)).replace("PIECE", str(piece)))
        plan = build(config, "f", spans.__getitem__, test_images=100, corruptions={"c-fog": "d"})
        return [stage.spec for stage in plan.stages if isinstance(stage.spec, EvaluateSpec)]

    for every, piece in ((1, 100_000), (1, 700), (4, 100), (7, 300)):
        specs = planned(every, piece)
        assert all(set(spec.shown) <= set(spec.levels) for spec in specs)
        for name, levels in spans.items():
            shown = sorted(level for spec in specs if spec.degradation == name for level in spec.shown)
            step = (levels[-1] - levels[0]) / 4
            assert len(shown) == 5 and (shown[0], shown[-1]) == (levels[0], levels[-1])
            assert all(abs(level - levels[0] - i * step) <= every for i, level in enumerate(shown))
        assert sorted(s for spec in specs if spec.degradation == "c-fog" for s in spec.shown) == [1, 2, 3, 4, 5]


def test_what_is_shown_is_no_part_of_the_digest() -> None:
    spec = spec_of("noise", (0, 25))
    assert Stage("e", 0, spec).digest == Stage("e", 0, spec.model_copy(update={"shown": (25,)})).digest
    older = {name: value for name, value in spec.model_dump(mode="json").items() if name != "shown"}
    assert Stage("e", 0, EvaluateSpec.model_validate(older)).digest == Stage("e", 0, spec).digest


def test_the_kept_images_are_those_that_the_model_saw(tmp_path: Path) -> None:
    """Against imagedegrade where it draws nothing, and for noise against what a model is given."""
    stage, _ = imported(tmp_path, 0)
    given: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dtype == torch.uint8 and not any(torch.equal(inputs[0], one) for one in given):
            given.append(inputs[0].clone())

    spec = spec_of("noise", (0, 20, 50)).model_copy(update={"shown": (20, 50)})
    with register_module_forward_pre_hook(note):
        kept = evaluated(tmp_path, spec, {"model": stage})
    assert [len(batch) for batch in given] == [60] * 3, "one batch at each level"
    table = kept["samples"]
    assert [str(field.type) for field in table.schema] == ["int64", "int64", "int16", "binary"]
    rows = table.to_pylist()
    assert [row["level"] for row in rows] == [20] * 16 + [50] * 16
    for row in rows:
        batch = given[(0, 20, 50).index(row["level"])]
        assert np.array_equal(pixels(row["image"]), batch[row["index"]].permute(1, 2, 0).numpy())
        assert row["label"] == digits().labels[row["index"]]
    jpeg = evaluated(tmp_path, spec_of("jpeg", (1, 51)).model_copy(update={"shown": (51,)}), {"model": stage})
    for row in jpeg["samples"].to_pylist():
        clean = digits().images[row["index"]].permute(1, 2, 0).numpy()
        assert np.array_equal(pixels(row["image"]), reference_degrade(clean, "jpeg", 51))
    assert "samples" not in evaluated(tmp_path, spec_of("jpeg", (2, 3)), {"model": stage})


def test_the_kept_mistakes_are_the_surest_ones_as_the_model_saw_them(tmp_path: Path) -> None:
    """Against the whole of what the model says, sorted by Python; a vote has none."""
    stage, model = imported(tmp_path, 0)
    levels, place = (0, 20, 50), {"model": stage}
    found = evaluated(tmp_path, spec_of("noise", levels).model_copy(update={"shown": (20, 50)}), place)["mistakes"]
    assert [f"{field.name} {field.type}" for field in found.schema] == [
        "level int64", "index int64", "label int16", "said int16", "confidence float", "image binary",
    ]  # fmt: skip
    labels = digits().labels.tolist()
    expected = []
    for level in (20, 50):
        conditions = Conditions("noise", (level,), seed=5, batch_size=60)
        judged = judge(model, digits(), conditions)
        assert judged.confidence is not None
        said, sure = judged.predictions[0].tolist(), judged.confidence[0].tolist()
        wrong = sorted((i for i in range(60) if said[i] != labels[i]), key=lambda i: -sure[i])[:6]
        expected += [(level, i, labels[i], said[i], pytest.approx(sure[i], abs=1e-5)) for i in wrong]
        for i, row in zip(wrong, [row for row in found.to_pylist() if row["level"] == level], strict=True):
            seen = conditions.shown(digits().images[[i]], torch.tensor([i]), level)[0]
            assert np.array_equal(pixels(row["image"]), seen.permute(1, 2, 0).numpy())
    assert [tuple(row.values())[:-1] for row in found.to_pylist()] == expected and len(expected) == 12
    vote = spec_of("noise", levels, inference="vote").model_copy(update={"shown": (20,)})
    assert "mistakes" not in evaluated(tmp_path, vote, {"expert-a": stage})
    assert mistake_rows(torch.ones(9, dtype=torch.bool), torch.ones(9), (224, 224)).tolist() == [0, 1]
    assert mistake_rows(torch.zeros(9, dtype=torch.bool), torch.ones(9), (8, 8)).tolist() == []


def test_a_published_set_keeps_its_own_images(tmp_path: Path) -> None:
    stage, _ = imported(tmp_path, 0)
    folder = tmp_path / "digits-c"
    folder.mkdir()
    images = digits().images.permute(0, 2, 3, 1).numpy()
    np.save(folder / "dark.npy", np.concatenate([images // divisor for divisor in (1, 2, 3, 5, 9)]))
    np.save(folder / "labels.npy", np.tile(digits().labels.numpy(), 5))
    digest = corruption_digest(folder, "dark")
    spec = spec_of("c-dark", (2, 5), corruption=digest).model_copy(update={"shown": (2, 5)})
    found = evaluated(tmp_path, spec, {"model": stage}, corruptions=((digest, str(folder)),))["samples"].to_pylist()
    for row in found:
        assert np.array_equal(pixels(row["image"]), images[row["index"]] // {2: 2, 5: 9}[row["level"]])
    assert {row["level"] for row in found} == {2, 5} and len(found) == 32


def test_the_reports_tables_are_what_the_store_holds(tmp_path: Path) -> None:
    """A plan of two models in two experiments whose pieces are partly stored, one without images."""
    models = [imported(tmp_path, seed)[0] for seed in range(2)]
    store = Store(tmp_path / "store")
    places, stored = [], []
    for (method, model), levels in (
        (m, p) for m in zip(("base", "expert-noise"), models, strict=True) for p in ((0, 10), (25, 50))
    ):
        shown = (0,) if levels == (0, 10) else (25, 50)
        spec = spec_of("noise", levels).model_copy(update={"shown": shown, "method": method})
        stage = Stage(f"evaluate-{method}-noise", model.seed, spec, {"model": model})
        places.append(
            {"method": method, "seed": 0, "degradation": "noise", "kind": "trained", "directory": stage.directory}
        )
        if (method, levels) != ("base", (25, 50)):
            execute(stage, Context(str(tmp_path / "store")), CPU, lambda *_: None)
            stored.append(stage)
    config = parse("experiment: x\n").model_dump(mode="json")
    content = parse("experiment: x\n").content()
    listed = [{"name": s.name, "kind": s.kind, "seed": s.seed, "directory": s.directory} for s in (*models, *stored)]
    plan = {"config": config, "content": content, "stages": listed, "rows": places, "methods": ABOUT}
    plans = [{"experiment": name, **plan} for name in ("one", "two")]
    tables = stage_tables(store, plans)
    samples, answers, timeline = (tables[name] for name in ("samples", "answers", "timeline"))
    assert samples is not None and answers is not None and timeline is not None
    assert samples.schema.names == ["experiment", "degradation", "level", "index", "label", "image"]
    by_place = {(r["experiment"], r["level"], r["index"]): r for r in samples.to_pylist()}
    assert len(by_place) == samples.num_rows == 2 * 3 * 16, "what the base lacks comes from the expert"
    said = {(r["experiment"], r["method"], r["level"], r["index"]): r["said"] for r in answers.to_pylist()}
    assert len(said) == answers.num_rows == 2 * 16 * (1 + 3)
    for stage in stored:
        method = stage.name.removeprefix("evaluate-").removesuffix("-noise")
        own = pq.read_table(next((tmp_path / "store" / stage.directory).glob("predictions.*"))).to_pylist()
        for row in own:
            for (experiment, level, index), sample in by_place.items():
                if level == row["level"]:
                    assert said[experiment, method, level, index] == digits().classes[row["predictions"][index]]
                    assert sample["label"] == digits().classes[int(digits().labels[index])]
    rows = timeline.to_pylist()
    assert [row["stage"] for row in rows] == [s["directory"] for s in listed], "each stage once"
    for row in rows:
        manifest = json.loads((tmp_path / "store" / row["stage"] / "manifest.json").read_text())
        assert (row["started"], row["finished"], row["host"]) == tuple(
            manifest[n] for n in ("started", "finished", "host")
        )
        assert row["experiment"] == "one" and row["seconds"] == pytest.approx(manifest["seconds"], abs=0.01)
        assert row["worker"].startswith("process ")
        assert (row["ready"] is None) == (row["kind"] == "import") and (row["ready"] or 0) <= row["started"]
    facts = results.facts(store, plans)
    assert fingerprint("digits") in facts["one: data"] and parse(facts["one: config"]).model_dump(mode="json") == config
    assert f"CPU on {rows[0]['host']} (" in facts["hardware"] and "torch " in facts["versions"]


def test_only_a_few_experiments_show_images_and_only_what_they_need_is_read() -> None:
    """Ten runs, the last of them on other data: four show images, and each of their files is read once."""
    read: list[tuple[str, str]] = []

    def manifests(directory: str) -> dict[str, Any]:
        files = {"samples.parquet": {}, "predictions.parquet": {}}
        return {"files": files, "inputs": {"model": "m"}, "spec": {"levels": [0]}, "card": {"classes": ["a", "b"]}}

    def tables(directories: Sequence[str], name: str) -> list[Any]:
        read.extend((directory, name) for directory in directories)
        if name == "samples.parquet":
            return [pa.table({"level": [0], "index": [1], "label": [1], "image": [b"png"]})] * len(directories)
        return [pa.table({"level": [0], "predictions": [[1, 0]]})] * len(directories)

    methods = ("oracle", "expert-noise", "expert-blur", "scratch", "fusiondistill", "base", "mine")
    plans = [
        {
            "experiment": f"x{i}",
            "methods": [*ABOUT, {"id": "mine", "form": "all", "start": "base"}],
            "config": {"data": {"name": "other" if i == 9 else "digits"}, "protocol": "standard", "seeds": [3, 4]},
            "rows": [
                {"method": m, "seed": seed, "degradation": "noise", "directory": f"{m}-{i}-{seed}"}
                for m in methods
                for seed in (3, 4)
            ],
        }
        for i in range(10)
    ]
    samples, answers = samples_and_answers(plans, manifests, tables)
    assert [row["experiment"] for row in samples] == ["x0", "x1", "x2", "x9"]
    assert samples[0] == {
        "experiment": "x0", "degradation": "noise", "level": 0, "index": 1, "label": "b", "image": b"png",
    }  # fmt: skip
    of_first = [(row["method"], row["said"]) for row in answers if row["experiment"] == "x0"]
    assert of_first == [(m, "a") for m in ("base", "expert-noise", "fusiondistill", "mine")]
    assert len(read) == len(set(read)) == 4 * 5
    assert all(directory.endswith("-3") for directory, _ in read), "the first seed"
