"""The best single network: chosen by validation, named at the end of a run, kept in ``STORE/best``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import fusiondistill
from fusiondistill.checkpoints import CheckpointError, sealed, unsealed
from fusiondistill.config_file import parse
from fusiondistill.report.choice import SCHEMA, Choice, choice_lines, choices
from fusiondistill.report.methods import Methods
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.storage.best import model_place, noted_best
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.results import choice_lines as choice_lines_of
from fusiondistill_runner.views.results import rebuilt
from fusiondistill_runner.watching.status import status_lines
from fusiondistill_runner.watching.status_content import status_content
from report_tables import known
from running import finished, stages
from shelf import FOUR
from test_report_comparisons import PAIRS, grouped

CONFIG = """
experiment: best
seeds: [0, 1]
data: {name: digits, train_images: 60, test_images: 20}
model: {name: cifar_resnet8}
methods: [base, modelsoups]
degradations: [noise, saltpepper]
base: {epochs: 2, batch_size: 16}
expert: {epochs: 1, batch_size: 16}
evaluation: {every: 25}
"""


def judged(*rows: tuple[str, int, int | None], clean: int = 5, **more: Any) -> pa.Table:
    """(method, seed, right of 100) as a table; None: not judged yet."""
    content = [
        {
            "same": "s", "experiment": "x", "model": "m", "method": method, "seed": seed,
            "network": f"{method}-{seed}", "place": f"there/{method}-{seed}", "right": right,
            "seen": None if right is None else 100, "clean_right": None if right is None else clean,
            "clean_seen": None if right is None else 10, **more,
        }
        for method, seed, right in rows
    ]  # fmt: skip
    return pa.table({name: pa.array([row.get(name) for row in content], kind) for name, kind in SCHEMA.items()})


def chosen(table: pa.Table) -> Choice:
    (found,) = choices(table, [], {"": Methods()})
    return found


def test_the_row_with_most_right_answers_over_its_seeds_is_chosen_and_of_it_the_best_seed() -> None:
    found = chosen(judged(("a", 0, 90), ("a", 1, 10), ("b", 0, 60), ("b", 1, 70), ("c", 0, 65), ("c", 1, 65)))
    assert found.best is not None and (found.best.about.id, found.seed) == ("b", 1)
    said = " ".join(choice_lines([found], None))
    assert "b (seed 1)" in said and "70.0 %" in said and "50.0 % clean" in said and "there/b-1" in said


def test_rows_of_other_seeds_are_not_compared() -> None:
    found = choices(judged(("a", 0, 60), ("b", 0, 61), ("b", 1, 40)), [], {"": Methods()})
    assert [one.best and one.best.about.id for one in found] == ["a", "b"]


def test_what_a_network_needs_is_in_the_lines_that_use_it() -> None:
    said = "\n".join(choice_lines([chosen(judged(("a", 0, 90)))], None))
    assert "PHOTO... --fit crop" in said and 'predict(["photo.jpg"], fit="crop")' in said and "elsewhere" not in said
    table = judged(("a", 0, 90), any_size=True, plugin="my net.py", foreign=True)
    said = "\n".join(choice_lines([chosen(table)], None))
    assert "--fit" not in said and "--plugin 'my net.py'" in said and "read_plugins(['my net.py'])" in said
    assert "a checkpoint from elsewhere" in " ".join(said.split())


def test_how_good_and_how_sure_the_best_network_is_stands_beside_it() -> None:
    """Its own figures and the base's from the test images; the tests' verdicts about rows that compete with it."""
    group = grouped(PAIRS)
    at = {"experiment": group.experiment, "model": group.model}
    table = judged(
        *((method, seed, right) for method, right in (("base", 60), ("fusing", 70)) for seed in range(3)), **at
    )
    (found,) = choices(table, [group], {"": Methods({row.method: row.about for row in group.rows})})
    said = " ".join(" ".join(choice_lines([found], table)).split())
    fusing, base = (known(group.row(name)) for name in ("fusing", "base"))
    own, clean, bare = (one.by_seed[0] for one in (fusing.average, fusing.clean, base.average))
    assert f"Accuracy on the test images: {own:.1f} % degraded, {clean:.1f} % clean (Base, trained" in said
    assert f"alone: {bare:.1f} % degraded" in said
    spread = known(fusing.average.interval)
    assert f"Over 3 seeds its row has {spread.mean:.1f} ±{spread.half:.1f} % degraded" in said
    assert "on 10,000 test images: better than Base; cannot be told apart from FusionDistill." in said
    assert "Oracle" not in said, "it is told the degradation"


def test_a_tie_is_said() -> None:
    said = " ".join(" ".join(choice_lines([chosen(judged(("a", 0, 60), ("b", 0, 70), ("c", 0, 70)))], None)).split())
    assert "b. Validation on 10 images chose it among 3 rows (tied with c: the first of the table is taken)" in said


def test_many_experiments_without_a_best_network_take_a_line() -> None:
    why = pa.concat_tables([judged(("a", 0, None), why="of this", experiment=f"x{i}") for i in range(300)])
    assert choice_lines([], why) == ["", "No best single network is named for x0, x1, x2 and 297 more: of this."]


def test_a_row_that_is_not_finished_is_not_chosen() -> None:
    found = chosen(judged(("a", 0, 90), ("a", 1, None), ("b", 0, 60), ("b", 1, 70)))
    assert found.best is not None and found.best.about.id == "b"
    assert "so far (1 row is" in " ".join(choice_lines([found], None))
    nothing = chosen(judged(("a", 0, None)))
    assert nothing.best is None and "not known" in choice_lines([nothing], None)[1]


def test_networks_that_were_judged_on_other_images_are_not_compared() -> None:
    table = pa.concat_tables([judged(("a", 0, 90)), judged(("b", 0, 60), same="t", experiment="y")])
    assert [one.best and one.best.about.id for one in choices(table, [], {"": Methods()})] == ["a", "b"]


@pytest.mark.parametrize("more", ["protocol: paper\n", "data: {validation: 0}\nselect: last\n"])
def test_without_validation_images_no_network_stands_for_choice(more: str) -> None:
    plan = build(parse(f"experiment: x\n{more}"), "f", FOUR.__getitem__)
    assert plan.validated == () and not any(stage.kind == "validate" for stage in plan.stages)


def test_every_row_of_one_network_that_is_not_told_is_validated() -> None:
    plan = build(parse("experiment: x\nsearch: {trials: 2, space: {loss.ce: {uniform: [0.1, 1.0]}}}\n"), "f",
                 FOUR.__getitem__)  # fmt: skip
    single = {one.id for one in plan.descriptions if one.passes == 1 and not one.told}
    assert {one.method for one in plan.validated} == single
    assert len({one.same for one in plan.validated}) == 1


@pytest.fixture(scope="module")
def store() -> Path:
    return finished(CONFIG)[1]


def outcome(stage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stage / "manifest.json").read_text())["outcome"]
    return found


def test_validation_counts_are_those_of_a_plain_loop(store: Path) -> None:
    for seed, stage in enumerate(sorted(stages(store, "validate-base"), key=seed_of)):
        (network,) = json.loads((stage / "manifest.json").read_text())["inputs"].values()
        _, held_out = fusiondistill.load_images("digits", "train").take(60).holdout(0.1, seed)
        images, labels = held_out.gather(torch.arange(len(held_out)))
        with torch.no_grad():
            right = (fusiondistill.load_model(store / network)(images).argmax(1) == labels).sum()
        found = outcome(stage)
        assert (found["right"]["clean"], found["seen"]["clean"]) == (int(right), len(held_out))
        assert found["seen"]["noise"] == found["seen"]["saltpepper"] == 2 * len(held_out)


def seed_of(stage: Path) -> int:
    return int(json.loads((stage / "manifest.json").read_text())["seed"])


def test_a_run_ends_with_the_best_network_and_keeps_it_under_a_stable_name(store: Path) -> None:
    output = (store.parent / "output.txt").read_text()
    end = output[output.index("Best single network: ") :]
    facts = noted_best(Store(store))
    assert facts is not None
    assert f"fusiondistill predict {store}/best PHOTO..." in end and f"load_model('{store}/best')" in end
    scores: dict[str, list[int]] = {}
    for stage in stages(store, "validate"):
        counts = outcome(stage)["right"]
        row = json.loads((stage / "manifest.json").read_text())["name"].removeprefix("validate-")
        scores.setdefault(row, []).append(sum(counts.values()) - counts["clean"])
    assert sum(scores[facts["method"]]) == max(map(sum, scores.values()))
    kept, network = (fusiondistill.load_checkpoint(store / name) for name in ("best", facts["stage"]))
    assert kept[1] == network[1] and all(torch.equal(kept[0][name], value) for name, value in network[0].items())
    assert model_place(str(store)) == f"{store}/best"
    page, markdown = (store / "report" / "index.html").read_text(), (store / "report" / "table.md").read_text()
    for text in (page, markdown):
        for words in ("Best single network", "How good", "How sure", "Where it lies", f"{store}/best"):
            assert words in text


def test_a_store_without_a_best_network_says_what_to_do(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "plans").mkdir(parents=True)
    (copy / "plans" / "best.json").write_bytes((store / "plans" / "best.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"no best/: its run has not come to its end .*status"):
        model_place(str(copy))
    plan = unsealed((copy / "plans" / "best.json").read_bytes(), "")
    (copy / "plans" / "best.json").write_bytes(sealed({**plan, "config": {**plan["config"], "protocol": "paper"},
                                                       "validated": []}))  # fmt: skip
    with pytest.raises(CheckpointError, match=r"no best/: protocol paper chooses epochs on the test split"):
        model_place(str(copy))
    with pytest.raises(CheckpointError, match=r"copy is a store without a best network"):
        fusiondistill.load_model(copy)
    del plan["validated"]
    (copy / "plans" / "best.json").write_bytes(sealed(plan))
    with pytest.raises(CheckpointError, match="were never validated"):
        model_place(str(copy))
    with pytest.raises(CheckpointError, match=r"nowhere does not exist"):
        plans(Store(tmp_path / "nowhere"))
    assert model_place(str(store / "best")) == str(store / "best")


def test_verbs_and_python_say_which_network_a_store_stands_for(store: Path, tmp_path: Path) -> None:
    facts = noted_best(Store(store))
    assert facts is not None
    named = f"{facts['method']}, seed {facts['seed']} ({facts['stage']})"
    assert f"  best network: {named}, as {store}/best" in status_lines(Store(store))
    best = status_content(Store(store))["best"]
    assert best == {**{key: facts[key] for key in ("experiment", "method", "seed", "stage")}, "place": f"{store}/best"}
    model, own = fusiondistill.load_model(store), fusiondistill.load_model(store / facts["stage"])
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), own.parameters(), strict=True))
    Image.new("RGB", own.preparation.size[::-1]).save(tmp_path / "a.png")
    done = CliRunner().invoke(main, ["predict", str(store), str(tmp_path)])
    assert done.exit_code == 0 and f"{named}, the store's best network\n" in done.stderr, done.output
    swapped = CliRunner().invoke(main, ["predict", str(tmp_path / "a.png"), str(store)])
    assert swapped.exit_code == 2 and "The model stands first" in swapped.stderr


def test_a_note_that_is_not_that_of_its_stage_counts_for_nothing(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    facts = noted_best(Store(copy))
    assert facts is not None
    other = next(stage.name for stage in stages(copy, "base") if stage.name != facts["stage"])
    for wrong in ({**facts, "stage": other}, {**facts, "stage": 5}, {"seed": 1}, {**facts, "stage": "../x"}):
        (copy / "best" / "best.json").write_bytes(sealed(wrong))
        assert noted_best(Store(copy)) is None


def test_a_chosen_network_that_is_gone_is_said_and_the_report_goes_on(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    facts = noted_best(Store(copy))
    assert facts is not None
    shutil.rmtree(copy / facts["stage"])
    said = " ".join(choice_lines_of(Store(copy), rebuilt(Store(copy))["results"]))
    assert "not kept" in said and (copy / "best" / "model.safetensors").exists()


def test_a_run_in_which_no_network_stands_for_choice_leaves_no_old_one(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    plan = unsealed((copy / "plans" / "best.json").read_bytes(), "")
    (copy / "plans" / "best.json").write_bytes(sealed({**plan, "validated": []}))
    results = rebuilt(Store(copy))["results"]
    assert any("No best single network" in line for line in choice_lines_of(Store(copy), results, {"best"}))
    assert not (copy / "best").exists()


def test_a_bucket_keeps_the_name_of_its_server() -> None:
    place = Store("s3://bucket/run?endpoint_override=localhost:9000&scheme=http")
    assert place.shown("best") == "s3://bucket/run/best?endpoint_override=localhost:9000&scheme=http"


def test_a_best_network_that_was_damaged_is_laid_there_again(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    whole = (copy / "best" / "model.safetensors").read_bytes()
    (copy / "best" / "model.safetensors").write_bytes(whole[:100])
    place = Store(copy)
    choice_lines_of(place, rebuilt(place)["results"])
    assert (copy / "best" / "model.safetensors").read_bytes() == whole
