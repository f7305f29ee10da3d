"""The router: its numbers, what it sees, whose network answers, the file that holds it, and a run with such rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.fft import dctn
from torch import nn

from fusiondistill import build_model, load_checkpoint, load_images, load_model, save_checkpoint
from fusiondistill.cards import HOW, card_of
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.data import ImageSet
from fusiondistill.degradation_config import as_degradation, in_bands
from fusiondistill.evaluation import Conditions, judge
from fusiondistill.folding import for_inference
from fusiondistill.inference import INFERENCE, At, Part, combined
from fusiondistill.inference._traces import FEATURES, Traces
from fusiondistill.level_draws import degraded, random_levels
from fusiondistill.models import ImageClassifier
from fusiondistill.packing import How, pack
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.planning.specs import ValidateSpec
from fusiondistill_runner.storage.noted_plans import note_plan
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import results
from fusiondistill_runner.working.data import splits
from fusiondistill_runner.working.execute import execute

CPU = torch.device("cpu")
ROUTER = INFERENCE["router"]


def fitted(images: ImageSet, names: tuple[str, ...] = ("blur", "noise"), **parameters: int) -> Part:
    at = At(images, images.take(50), [as_degradation(one) for one in names], 5, "standard", CPU)
    assert ROUTER.fits is not None
    return ROUTER.fits(at, **ROUTER.checked({"views": 2, "epochs": 8, "width": 32, **parameters}))


@pytest.fixture(scope="module")
def part() -> Part:
    torch.set_num_threads(1)
    return fitted(load_images("digits", "train").take(300))


class Constant(nn.Module):
    """The same logits for every image, and how many it was asked about."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.seen = place, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return torch.full((len(images), 3), float(self.place))


def test_the_numbers_are_those_of_the_formulas(tiny: Callable[..., ImageSet]) -> None:
    pixels = tiny(3, 17, 24).gather(range(3))[0]
    pixels[0, :, :4] = 0
    pixels[1, 0, 5:, 5:] = 255
    found = Traces()(pixels).double().numpy()
    assert found.shape == (3, FEATURES)
    x = pixels.double().numpy()
    r, g, b = x[:, 0], x[:, 1], x[:, 2]
    y = 0.299 * r + 0.587 * g + 0.114 * b
    planes = np.stack([y, (b - y) / 1.772, (r - y) / 1.402], 1)  # JFIF
    dark, light = np.sqrt((x == 0).mean((2, 3))), np.sqrt((x == 255).mean((2, 3)))
    across, down = np.abs(np.diff(planes, axis=3)), np.abs(np.diff(planes, axis=2))
    laplace = np.abs(4 * planes[:, :, 1:-1, 1:-1] - planes[:, :, 2:, 1:-1] - planes[:, :, :-2, 1:-1]
                     - planes[:, :, 1:-1, 2:] - planes[:, :, 1:-1, :-2])  # fmt: skip
    expected = [dark, light, planes.mean((2, 3)), planes.std((2, 3), ddof=1)]
    expected += [np.log1p(one.mean((2, 3))) for one in (across, down, laplace)]
    np.testing.assert_allclose(found[:, :21], np.concatenate(expected, 1), atol=2e-3)
    parts = np.concatenate([(laplace[:, :2] < step).mean((2, 3)) for step in (2, 6, 16, 40)], 1)
    assert (np.abs(found[:, 21:29] - parts) < 2 / laplace[0, 0].size).all()
    blocks = np.stack([[[dctn(plane[8 * i : 8 * i + 8, 8 * j : 8 * j + 8], norm="ortho") for i in range(2)
                         for j in range(3)] for plane in image[:2]] for image in planes])  # fmt: skip
    sizes = np.log1p(np.abs(blocks)).mean(2).reshape(3, 128)
    np.testing.assert_allclose(found[:, 29:157], sizes, atol=2e-3)
    rounded = (np.abs(blocks) < 1.5).mean(2).reshape(3, 128)
    assert (np.abs(found[:, 157:] - rounded) < 0.5).all() and np.abs(found[:, 157:] - rounded).mean() < 1e-3
    with pytest.raises(ValueError, match="from 8x8 pixels, these have 9x7"):
        Traces()(pixels[:, :, :7, :9])


def test_it_sees_the_degradation_and_a_rough_level(part: Part) -> None:
    assert part.outcome["accuracy"] > 0.8
    assert part.outcome["parameters"] == ROUTER.weighs(2, {"width": 32})
    test = load_images("digits", "test").take(200)
    indices = torch.arange(200)
    pixels = test.gather(indices)[0]
    networks: dict[str, Any] = {"expert-noise": Constant(1), "expert-blur": Constant(0)}
    routed = combined("router", networks, {"width": 32}, part)
    assert routed.names == ("clean", "blur", "noise")
    for place, (name, off) in enumerate((("blur", 6), ("noise", 6))):
        levels = random_levels(name, 7, indices)
        seen = degraded(pixels, name, levels, seed=8, indices=indices, protocol="standard")
        logits, route = routed.routed(seen)
        assert float((route.chosen == place).double().mean()) > 0.9
        assert torch.equal(logits, route.chosen[:, None].expand(-1, 3).float())  # each network's own images
        assert float((route.levels - levels)[route.named == place + 1].abs().double().mean()) < off
        alone = [int(routed.router(seen[i : i + 1]).chosen) for i in range(5)]
        assert alone == route.chosen[:5].tolist()
    assert float((routed.router(pixels).named == 0).double().mean()) > 0.6
    asked = networks["expert-blur"].seen + networks["expert-noise"].seen
    assert asked <= 400 + 4  # one forward pass an image; a single one is doubled


def test_it_chooses_by_the_level_where_there_are_networks_for_bands_of_levels(part: Part) -> None:
    roles = ("expert-blur_1", "expert-blur_2", "expert-blur_3", "expert-noise")
    routed = combined("router", {role: Constant(i) for i, role in enumerate(roles)}, {"width": 32}, part)
    indices = torch.arange(200)
    pixels = load_images("digits", "test").gather(indices)[0]
    banded = {one.id: one.levels for one in in_bands([as_degradation("blur"), as_degradation("noise")], 3)}
    assert banded["blur_1"] == tuple(range(17)) and banded["blur_3"] == tuple(range(34, 51))
    seen = degraded(pixels, "blur", random_levels("blur", 7, indices), seed=8, indices=indices, protocol="standard")
    logits, route = routed.routed(seen)
    for answer, chosen, level in zip(
        logits[:, 0].int().tolist(), route.chosen.tolist(), route.levels.tolist(), strict=True
    ):
        assert roles[answer].startswith("expert-noise" if chosen else "expert-blur_")
        assert chosen or level in banded[roles[answer].removeprefix("expert-")]
    assert {0, 1, 2} <= set(logits[:, 0].int().tolist())
    few = in_bands([as_degradation({"name": "blur", "levels": [3, 9]})], 4)
    assert [(one.id, one.levels) for one in few] == [("blur_1", (3,)), ("blur_2", (9,))]
    renamed = [{**one, "id": id} for one, id in zip(part.about["degradations"], ("blur", "blur_1"), strict=True)]
    alike = Part(part.state, {"degradations": renamed})
    for roles, first in ((("expert-blur", "expert-blur_1"), 1), (("expert-blur_1", "expert-blur_1_1"), 1),
                         (("expert-blur_1", "expert-blur_2", "expert-blur_1_1", "expert-blur_1_2"), 2)):  # fmt: skip
        several = combined("router", {role: Constant(i) for i, role in enumerate(roles)}, {"width": 32}, alike)
        assert [one.place for one in several.classifiers] == list(range(len(roles)))
        assert several.first.tolist() == [0, first]  # an id that looks like a band of another is none
    with pytest.raises(KeyError, match="expert-noise"):
        combined("router", {"expert-blur_1": Constant(0)}, {"width": 32}, part)


def test_the_same_images_give_the_same_router_whatever_was_drawn_before(part: Part) -> None:
    torch.rand(3)
    before = torch.get_rng_state()
    again = fitted(load_images("digits", "train").take(300))
    assert torch.equal(torch.get_rng_state(), before)
    assert again.outcome == part.outcome
    assert all(torch.equal(again.state[name], tensor) for name, tensor in part.state.items())


def test_an_image_that_a_degradation_leaves_as_it_is_counts_as_clean() -> None:
    images = load_images("digits", "train").take(60)
    known = [as_degradation({"name": "blur", "levels": [0]}), as_degradation("jpeg")]
    at = At(images, images, known, 1, "standard", CPU)
    assert ROUTER.fits is not None
    made = ROUTER.fits(at, **ROUTER.checked({"views": 1, "epochs": 20, "width": 8}))
    routed = combined("router", {"expert-blur": Constant(0), "expert-jpeg": Constant(1)}, {"width": 8}, made)
    assert not bool((routed.router(images.gather(range(60))[0]).named == 1).any())  # never blur, which it never saw


def packed(folder: Path, part: Part, names: tuple[str, ...] = ("blur", "noise"), **changes: Any) -> Path:
    """A file of networks that differ in BatchNorm's statistics alone, behind a router."""
    states = []
    for place, _ in enumerate(names):
        torch.manual_seed(0)
        state = dict(build_model("cifar_resnet8", 10).state_dict())
        states.append({k: v + place if k.endswith("running_mean") else v for k, v in state.items()})
    how = How("router", {"width": 32}, tuple(f"expert-{name}" for name in names), part.about, ROUTER.code)
    card = card_of("cifar_resnet8", None, classes=[str(i) for i in range(10)], mean=(110.0,) * 3, std=(60.0,) * 3,
                   size=(16, 16), dataset="digits")  # fmt: skip
    card[HOW] = {**how.content(), **changes}
    path = folder / "routed.safetensors"
    save_checkpoint(path, pack(states, part.state), card)
    return path


def test_one_file_holds_shared_weights_once_and_is_one_module(part: Part, tmp_path: Path) -> None:
    path = packed(tmp_path, part)
    state, card = load_checkpoint(path)
    one = build_model("cifar_resnet8", 10).state_dict()
    doubled = [name for name in one if name.endswith("running_mean")]
    assert sum(n.startswith("all.") for n in state) == len(one) - len(doubled)
    assert {n.removeprefix("networks.1.") for n in state if n.startswith("networks.1.")} == set(doubled)
    model = load_model(path)
    pixels = load_images("digits", "test").gather(range(70))[0]
    for whole in (model, for_inference(model)):
        with torch.no_grad():
            chosen = model.answers.router(pixels).chosen
            both = torch.stack([one(pixels) for one in model.answers.classifiers], 1)
            torch.testing.assert_close(whole(pixels), both[torch.arange(70), chosen], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="trained on images of 16x16 pixels"):
        model(pixels[:, :, :12])
    images = load_images("digits", "test").take(70)
    several = [judge(for_inference(model), images, Conditions("blur", [3, 20], 1, size)) for size in (7, 64)]
    assert torch.equal(several[0].predictions, several[1].predictions)
    assert several[0].routes is not None and several[1].routes is not None
    assert all(torch.equal(a, b) for a, b in zip(several[0].routes[1:], several[1].routes[1:], strict=True))
    assert card[HOW]["roles"] == ["expert-blur", "expert-noise"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"code": "9"}, "another version of this project"),
        ({"name": "nothing"}, "way of inference 'nothing'"),
        ({"code": "plugin " + "0" * 64}, "--plugin FILE"),
        ({"roles": ["expert-blur"]}, "no intact file of router"),
        ({"about": {}}, "no intact file of router"),
        ({"about": {"degradations": [{"id": "blur", "levels": [1]}]}}, "no intact file of router"),
        ({"parameters": {"width": 3}}, "no intact file of router"),
        ({"roles": []}, "card whose inference is missing"),
        ({"about": 3}, "card whose inference is missing"),
    ],
)
def test_a_file_that_does_not_hold_together_is_named(
    part: Part, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        load_model(packed(tmp_path, part, **changes))


CONFIG = """
experiment: routing
data: {name: digits, train_images: 150, test_images: 60}
model: cifar_resnet8
degradations: [blur, noise]
methods: [base, oracle, routed, router-oracle, recommended, adapted]
base: {epochs: 2, batch_size: 32}
expert: {epochs: 1, batch_size: 32}
generalist: {epochs: 2, batch_size: 32}
routed: {inference: {name: router, images: 100, views: 1, epochs: 4}}
recommended: {inference: {name: router, images: 100, views: 1, epochs: 4}}
define:
  router-oracle: {of: expert, inference: {name: router, images: 100, views: 1, epochs: 4}}
  adapted: {of: base, inference: adapt}
evaluation: {every: 25, unseen: [contrast], expert_matrix: false}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A whole run in this process, and its tables."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("routing")
    (folder / "config.yaml").write_text(CONFIG)
    ready = prepare(str(folder / "config.yaml"), (), str(folder / "store"), local=True)
    (folder / "store").mkdir()
    for stage in ready.plan.stages:
        execute(stage, ready.context, CPU, lambda facts: None)
    note_plan(ready.store, ready.plan, {})
    results.write_results(ready.store)
    return ready.store


def test_rows_with_the_same_router_share_its_fit_and_say_what_they_cost(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    plan = prepare(str(tmp_path / "config.yaml"), (), str(tmp_path / "store"), local=True).plan
    assert [stage.kind for stage in plan.stages].count("fit") == 1
    about = {one.id: one for one in plan.descriptions}
    one, router = about["base"].parameters, ROUTER.weighs(2, {})
    assert (about["routed"].parameters, about["router-oracle"].parameters) == (one + router, 2 * one + router)
    assert about["recommended"].parameters == one + router and about["recommended"].passes == 1
    assert about["routed"].passes == about["router-oracle"].passes == 1 and about["routed"].part == router
    assert about["adapted"].transductive and not about["routed"].transductive and not about["routed"].told


def test_a_run_tells_what_its_routers_see_and_what_rows_recover(run: Store) -> None:
    routing = read_parquet(Path(run.path("routing.parquet")).read_bytes()).to_pylist()
    assert {row["name"] for row in routing} == {"clean", "blur", "noise"}
    for method in ("routed", "router-oracle", "recommended"):
        for degradation in ("blur", "noise", "contrast"):
            of = [row for row in routing if (row["method"], row["degradation"]) == (method, degradation)]
            for level in {row["level"] for row in of}:
                assert sum(row["named"] for row in of if row["level"] == level) == 60
                assert sum(row["chosen"] for row in of if row["level"] == level) == 60
    table = read_parquet(Path(run.path("results.parquet")).read_bytes())
    lines = "\n".join(results.table_lines(run, table))
    assert "What the router sees" in lines and "The router of Routed, router-oracle, Recommended. " in lines
    assert "adapted (transductive)" in lines and "Share of the gain of Oracle" in lines
    from fusiondistill.report import summarise

    shares = read_parquet(Path(run.path("shares.parquet")).read_bytes())
    (group,) = summarise(table, planned=results.planned_table(results.plans(run), table), shares=shares)
    mean = {row.method: row.average.by_seed[0] for row in group.rows if row.average.by_seed}
    assert {one.method for one in group.shares} == {"routed", "router-oracle", "recommended", "adapted"}
    for one in group.shares:
        assert one.gain == pytest.approx(mean["oracle"] - mean["base"]) and one.gain_low <= one.gain <= one.gain_high
        if one.share is not None and one.low is not None and one.high is not None:
            assert one.share == pytest.approx((mean[one.method] - mean["base"]) / one.gain)
            assert one.low <= one.share <= one.high


def test_one_set_of_weights_behind_a_router_may_be_the_best_network(run: Store) -> None:
    ready = prepare(str(Path(run.location).parent / "config.yaml"), (), run.location, local=True)
    validated = {one.method: one for one in ready.plan.validated}
    assert validated.keys() == {"base", "routed", "recommended"}  # neither several networks nor one that adapts
    for method in ("routed", "recommended"):
        one = validated[method]
        manifest, spec = run.manifest_of(one.stage.directory), one.stage.spec
        assert manifest is not None and isinstance(spec, ValidateSpec)
        held_out = splits(spec.data, None, "validation")[1]
        assert held_out is not None
        pixels, labels = held_out.gather(range(len(held_out)))
        right = int((load_model(run.path(one.network.directory))(pixels).argmax(1) == labels).sum())
        assert manifest["outcome"]["right"]["clean"] == right
        assert set(manifest["outcome"]["right"]) == {"clean", "blur", "noise"}


def test_predict_says_what_a_routed_row_sees(run: Store, tmp_path: Path) -> None:
    from PIL import Image

    (whole,) = Path(run.location).glob("routed-*")
    images = load_images("digits", "test")
    indices = torch.arange(4)
    seen = degraded(images.gather(indices)[0], "noise", torch.tensor([0, 40, 40, 50]), seed=1, indices=indices,
                    protocol="standard")  # fmt: skip
    for place, one in enumerate(seen):
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / f"{place}.png")
    done = CliRunner().invoke(main, ["predict", str(whole), str(tmp_path), "--out", str(tmp_path / "said.csv")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "said.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = load_model(whole).answers.router(seen)
    assert [row["degradation"] for row in rows] == [("clean", "blur", "noise")[i] for i in expected.named.tolist()]
    levels = [str(n) if i else "" for i, n in zip(expected.named.tolist(), expected.levels.tolist(), strict=True)]
    assert [row["level"] for row in rows] == levels and "noise" in [row["degradation"] for row in rows]
    (adapted,) = Path(run.location).glob("adapted-*")
    done = CliRunner().invoke(main, ["predict", str(adapted), *(str(tmp_path / f"{i}.png") for i in range(4))])
    assert done.exit_code == 0 and "looks at 32 images together" in done.output
    for stage in (whole, adapted):
        done = CliRunner().invoke(main, ["export", str(stage), "--out", str(tmp_path / stage.name)])
        assert done.exit_code == 0 and "all labels the same" in done.output, done.output
    again = load_model(tmp_path / whole.name)
    assert torch.equal(again(seen), load_model(whole)(seen))
    done = CliRunner().invoke(main, ["evaluate", str(whole), "--data", "digits", "--local"])
    assert done.exit_code == 2 and "holds 2 networks with how they answer (router)" in done.output


@pytest.mark.slow
def test_other_programs_run_a_routed_row_and_none_runs_one_that_adapts(run: Store, tmp_path: Path) -> None:
    names = ("routed", "recommended", "adapted")
    (routed,), (banded,), (adapted,) = (Path(run.location).glob(f"{name}-*") for name in names)
    for ending in ("pt2", "onnx"):
        for whole in (routed, banded):
            done = CliRunner().invoke(main, ["export", str(whole), "--out", str(tmp_path / f"{whole.name}.{ending}")])
            assert done.exit_code == 0 and "all labels the same" in done.output, done.output
        done = CliRunner().invoke(main, ["export", str(adapted), "--out", str(tmp_path / f"adapted.{ending}")])
        assert done.exit_code == 2 and "depends on the images beside it" in done.output


def test_a_guess_of_a_level_is_one_of_the_levels_that_were_given() -> None:
    part = fitted(load_images("digits", "train").take(60), epochs=1)
    about = {"degradations": [{"id": "blur", "levels": [1, 5, 30]}, {"id": "noise", "levels": [2]}]}
    networks: dict[str, Any] = {"expert-blur": Constant(0), "expert-noise": Constant(1)}
    routed = combined("router", networks, {"width": 32}, Part(part.state, about))
    outputs = torch.zeros(4, 5)
    outputs[:, 1] = 1.0
    outputs[:, 3] = torch.tensor([-3.0, 0.1, 0.4, math.inf])
    assert routed.router._read(outputs).levels.tolist() == [1, 5, 5, 30]
    outputs[:, 2] = 2.0
    assert routed.router._read(outputs).levels.tolist() == [2] * 4


def test_what_seems_clean_goes_to_the_network_that_is_best_on_clean_images(part: Part) -> None:
    images = load_images("digits", "test").take(40)

    class Says(nn.Module):
        def __init__(self, share: float) -> None:
            super().__init__()
            self.right, self.unused = int(share * 40), nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor:
            labels = torch.cat([images.labels, images.labels[:24]])  # a batch is filled up to 64
            said = torch.where(torch.arange(len(x)) < self.right, labels[: len(x)], (labels[: len(x)] + 1) % 10)
            return nn.functional.one_hot(said, 10).float()

    def of(first: float, second: float) -> int:
        made = {
            f"expert-{name}": ImageClassifier(Says(share), (1,) * 3, (1,) * 3, [*"0123456789"])  # type: ignore[arg-type]
            for name, share in (("blur", first), ("noise", second))
        }
        found: int = INFERENCE["router"].facts["settles"](made, images, part.about)["clean"]
        return found

    assert (of(0.2, 1.0), of(1.0, 0.2), of(1.0, 1.0)) == (1, 0, 0)
    networks: dict[str, Any] = {"expert-blur": Constant(0), "expert-noise": Constant(1)}
    for place in (0, 1):
        routed = combined("router", networks, {"width": 32}, Part(part.state, {**part.about, "clean": place}))
        route = routed.router(images.gather(range(40))[0])
        assert bool((route.named == 0).any()) and set(route.chosen[route.named == 0].tolist()) == {place}


def test_classifiers_of_plain_python_go_behind_it_too(part: Part) -> None:
    networks = {
        f"expert-{name}": ImageClassifier(
            build_model("cifar_resnet8", 10), (110,) * 3, (60,) * 3, [*"0123456789"]
        ).eval()
        for name in ("blur", "noise")
    }
    routed = combined("router", networks, {"width": 32}, part)
    assert routed(load_images("digits", "test").gather(range(3))[0]).shape == (3, 10) and routed.gives == "logits"
    with pytest.raises(ValueError, match="needs its fitted part"):
        combined("router", networks)


def test_a_way_of_ones_own_may_have_a_part_that_is_fitted(tmp_path: Path) -> None:
    """The part is a number for each network; its file needs the entry that it was made with."""

    def fit(at: At, *, power: float) -> Part:
        counts = torch.tensor([float(len(at.images)) ** power for _ in at.degradations])
        return Part({"counts": counts}, {"ids": [one.id for one in at.degradations]}, {"seen": len(at.images)})

    @INFERENCE.register("mine", fits=fit, weighs=lambda degradations, power: degradations)
    def mine(classifiers: Any, *, part: Any = None, power: float = 0.5) -> nn.Module:
        "The first network, times the first number."

        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one = classifiers[f"expert-{part.about['ids'][0]}"]

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                scaled: torch.Tensor = self.one(images) * part.state["counts"][0]
                return scaled

        return Scaled()

    entry = INFERENCE["mine"]
    assert (entry.weighs(3, {}), entry.passes(3), entry.whole) == (3, 3, True)
    images = load_images("digits", "train").take(49)
    assert entry.fits is not None
    made = entry.fits(At(images, None, [as_degradation("blur")], 0, "standard", CPU), power=0.5)
    state = build_model("cifar_resnet8", 10).state_dict()
    card = card_of("cifar_resnet8", None, classes=[*"0123456789"], mean=(110.0,) * 3, std=(60.0,) * 3, size=(16, 16),
                   dataset="digits")  # fmt: skip
    plain, whole = tmp_path / "plain.safetensors", tmp_path / "whole.safetensors"
    save_checkpoint(plain, state, card)
    card[HOW] = How("mine", {}, ("expert-blur",), made.about, entry.code).content()
    save_checkpoint(whole, pack([state], made.state), card)
    pixels = images.gather(range(3))[0]
    torch.testing.assert_close(load_model(whole)(pixels), 7 * load_model(plain)(pixels))


def test_what_a_router_cannot_tell_apart_stands_below_its_table() -> None:
    import pyarrow as pa

    from fusiondistill.report import summarise
    from fusiondistill.report.routing import routing_grids
    from report_tables import rows_of, table

    counts = table(rows_of(["base", "routed", "other"], seeds=(0,), levels={"blur": (0, 25), "noise": (0, 25, 50)}))
    named = {("blur", 0): (30, 10, 0), ("blur", 25): (4, 12, 24), ("noise", 0): (40, 0, 0), ("noise", 25): (0, 8, 32),
             ("noise", 50): (0, 0, 40)}  # fmt: skip
    rows = [
        {"experiment": "demo", "method": method, "seed": 0, "degradation": degradation, "level": level, "name": name,
         "named": of[i], "chosen": 0 if i == 0 else of[i] + of[0] * (i == 1), "off": 2.0 + level if of[i] else None}
        for method in ("routed", "other") for (degradation, level), of in named.items()
        for i, name in enumerate(("clean", "blur", "noise"))
    ]  # fmt: skip
    (group,) = summarise(counts, routing=pa.Table.from_pylist(rows))
    (grid,) = routing_grids(group)  # both rows have the same router
    assert grid.heading == ("images of", "named clean", "named Blur", "named Noise", "own network", "level off by")
    clean, blur, noise = ([text for text, _ in row] for row in grid.rows)
    assert clean == ["clean", "87.5", "12.5", "0.0", "\N{EN DASH}", "\N{EN DASH}"], "levels 0 of both"
    assert blur == ["Blur", "10.0", "30.0", "60.0", "40.0", "27.0"]
    assert noise == ["Noise", "0.0", "10.0", "90.0", "90.0", f"{(32 * 27 + 40 * 52) / 72:.1f}"]
    assert "The router of routed, other. " in grid.note and "It hardly tells Blur from Noise." in grid.note
