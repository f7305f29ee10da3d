"""Trying a store's networks on an image: what is offered, what is said, and the page in a real browser."""

from __future__ import annotations

import base64
import inspect
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fusiondistill import build_model, degrade, load_model
from fusiondistill.checkpoints import MANIFEST, MODEL, CheckpointError, card_of, new_attempt, to_safetensors
from fusiondistill.config_file import parse
from fusiondistill.data import DataError
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill_runner.cli import main
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.best import keep_best
from fusiondistill_runner.storage.noted_plans import note_plan
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.trying import Tryout, open_tryout
from running import command, environment

CONFIG = """
experiment: mine
seeds: [0, 1]
data: {name: folder, root: photos, size: [16, 20], fit: pad}
model: cifar_resnet8
degradations: [{name: speckle, as: grain, levels: 0..8}, blur]
evaluation: {unseen: [{name: darken, as: dusk, part: 8, levels: [0, 3, 5]}], seed: 9}
methods: [base, oracle, ensemble, modelsoups, fusing, fusiondistill]
search: null
"""
CLASSES = ["cat", "dog", "a very rare bird", "<b>bold</b>"]
CARD: dict[str, Any] = {
    "classes": CLASSES,
    "mean": (120.0, 120.0, 120.0),
    "std": (60.0, 60.0, 60.0),
    "size": (16, 20),
    "dataset": "photos",
    "fit": "pad",
}
UNFINISHED = ("fusing", "evaluate-fusing-grain", "evaluate-fusing-blur", "evaluate-fusing-dusk")


def darken(images: torch.Tensor, levels: torch.Tensor, *, part: int = 10) -> torch.Tensor:
    """Lose a part of the light per level."""
    return (images * (part - levels.view(-1, 1, 1, 1)) // part).to(torch.uint8)


@pytest.fixture(scope="module")
def known() -> Iterator[None]:
    """A degradation with a parameter, as a plugin has it."""
    before = dict(DEGRADATIONS._added)
    DEGRADATIONS.register("darken", range(0, 6), means="parts of the light lost")(darken)
    yield
    DEGRADATIONS._added = before


@pytest.fixture(scope="module")
def store(known: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of untrained networks, as a run leaves it. `fusing` is under way, and all but the second seed's base."""
    place = Store(tmp_path_factory.mktemp("try") / "store")
    plan = build(parse(CONFIG), "f", lambda name: DEGRADATIONS[name].levels, size=(16, 20))
    note_plan(place, plan, {})
    for number, stage in enumerate(plan.stages):
        if stage.name not in UNFINISHED and (stage.seed == 0 or "base" in stage.name):
            commit(place, stage, number)
    return Path(place.root)


def commit(place: Store, stage: Stage, number: int) -> None:
    """Store a stage: a network with weights of its own, or an evaluation."""
    if stage.kind == "evaluate":
        place.commit(stage, {}, {}, new_attempt())
        return
    torch.manual_seed(number)
    network = build_model("cifar_resnet8", len(CLASSES))
    card = card_of("cifar_resnet8", None, **CARD)
    place.commit(stage, {MODEL: to_safetensors(network.state_dict(), card)}, {"card": card}, new_attempt())


@pytest.fixture(scope="module")
def tryout(store: Path) -> Tryout:
    return open_tryout(Store(store))


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A JPEG file of 60 x 40 pixels that a camera held sideways took: its EXIF block says to turn it."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((60, 40), 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def by_hand(photo: bytes) -> torch.Tensor:
    """The photo turned a quarter, 40 x 60 pixels, and padded to 20 x 16: 11 x 16 of it, in black. uint8 [1,3,16,20]"""
    turned = Image.open(io.BytesIO(photo)).transpose(Image.Transpose.ROTATE_270)
    assert turned.size == (40, 60)
    canvas = Image.new("RGB", (20, 16))
    canvas.paste(turned.resize((11, 16), Image.Resampling.BICUBIC), (4, 0))
    return torch.tensor(np.asarray(canvas)).permute(2, 0, 1)[None]


def said(store: Path, network: str, image: torch.Tensor) -> list[tuple[str, float]]:
    """The three best classes of a network by a file of the store."""
    (place,) = store.glob(f"{network}-{'[0-9a-f]' * 16}")
    chances = load_model(place)(image).softmax(1)[0].tolist()
    return sorted(zip(CLASSES, chances, strict=True), key=lambda pair: -pair[1])[:3]


def test_base_experts_and_the_final_network_come_first_and_unfinished_rows_are_not_offered(tryout: Tryout) -> None:
    titles = {one: network.title for one, network in tryout.networks.items()}
    assert list(titles.items()) == [
        ("base, seed 0", "Base, seed 0"), ("base, seed 1", "Base, seed 1"),
        ("modelsoups, seed 0", "ModelSoups, seed 0"), ("fusiondistill, seed 0", "FusionDistill, seed 0"),
        ("expert-grain, seed 0", "Expert: Grain, seed 0"),
        ("expert-blur, seed 0", "Expert: Blur, seed 0"),
    ]  # fmt: skip
    assert {*titles} - {*tryout.first} == {"base, seed 1", "modelsoups, seed 0"}
    assert {one: [*of.every_level][-1] for one, of in tryout.degradations.items()} == {
        "grain": 8,
        "blur": 50,
        "dusk": 5,
    }


def test_the_best_network_of_a_store_is_marked_and_asked_first(store: Path, tmp_path: Path) -> None:
    place = Store(shutil.copytree(store, tmp_path / "store"))
    (fused,) = Path(place.root).glob("fused-*")
    keep_best(place, fused.name, {"experiment": "mine", "method": "modelsoups", "seed": 0}, place)
    tryout = open_tryout(place)
    assert tryout.networks["modelsoups, seed 0"].title == "ModelSoups, seed 0 (best)"
    assert {*tryout.networks} - {*tryout.first} == {"base, seed 1"}
    (base,) = (one for one in Path(place.root).glob("base-*") if json.loads((one / MANIFEST).read_text())["seed"] == 1)
    keep_best(place, base.name, {"experiment": "mine", "method": "base", "seed": 1}, place)
    assert {*tryout.networks} - {*open_tryout(place).first} == {"base, seed 0", "modelsoups, seed 0"}


@pytest.mark.parametrize(
    ("column", "name", "level", "parameters"), [("grain", "speckle", 8, {}), ("dusk", "darken", 3, {"part": 8})]
)
def test_an_image_is_prepared_degraded_and_named_as_by_hand(
    tryout: Tryout, store: Path, photo: bytes, column: str, name: str, level: int, parameters: dict[str, Any]
) -> None:
    networks = {"expert-blur, seed 0": "expert-blur", "fusiondistill, seed 0": "fusiondistill"}
    found = tryout.tried(tryout.prepared(photo, "photo.jpg"), column, level, list(networks))
    clean = by_hand(photo)
    degraded = degrade(clean, name, level, seed=9, **parameters)
    assert torch.equal(found.clean, clean[0]) and torch.equal(found.degraded, degraded[0])
    assert not torch.equal(clean, degraded)
    assert list(found.answers) == list(networks)
    for network, best in found.answers.items():
        expected = said(store, networks[network], degraded)
        assert [label for label, _ in best] == [label for label, _ in expected]
        assert [chance for _, chance in best] == pytest.approx([chance for _, chance in expected], abs=1e-6)
    assert len(set(found.answers.values())) == 2


def test_what_cannot_be_tried_is_named(
    tryout: Tryout, store: Path, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"notes.txt: cannot be decoded"):
        tryout.prepared(b"no image", "notes.txt")
    with pytest.raises(ValueError, match="mine has no degradation 'noise': it has grain, blur, dusk"):
        tryout.tried(by_hand(photo), "noise", 5, tryout.first)
    with pytest.raises(ValueError, match="dusk has no level 4 in mine"):
        tryout.tried(by_hand(photo), "dusk", 4, tryout.first)
    with pytest.raises(ValueError, match="has no experiment 'other': it has mine"):
        open_tryout(Store(store), "other")
    empty = Store(tmp_path / "empty")
    note_plan(empty, build(parse(CONFIG), "f", lambda name: DEGRADATIONS[name].levels), {})
    with pytest.raises(CheckpointError, match=r"no finished row of one network: `fusiondistill status .*empty` says"):
        open_tryout(empty)
    shutil.copytree(store, damaged := tmp_path / "damaged")
    (weights,) = damaged.glob("expert-blur-*/model.*")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="expert-blur"):
        open_tryout(Store(damaged))

    def other(images: torch.Tensor, levels: torch.Tensor, *, share: int = 2) -> torch.Tensor:
        """Another one of the same name."""
        return images

    DEGRADATIONS.register("darken", range(0, 6), replace=True)(other)
    with pytest.raises(CheckpointError, match=r"(?s)the plan of mine does not fit what is loaded.*part"):
        open_tryout(Store(store))
    monkeypatch.setattr(DEGRADATIONS, "_added", {})
    with pytest.raises(ValueError, match="'darken' is a plugin's: give its file with --plugin FILE"):
        open_tryout(Store(store))


def test_the_verb_refuses_before_it_serves(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        done: Result = CliRunner().invoke(main, ["try", *arguments])
        assert done.exit_code == 2, done.output
        return done.output

    assert "is no store" in refused(str(tmp_path))
    assert "mine has no degradation 'jpeg': it has grain, blur, dusk" in refused(str(store), "--degradation", "jpeg")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}: Address already in use" in refused(str(store), "--port", str(port))
    monkeypatch.setitem(sys.modules, "nicegui", None)
    assert "pip install 'fusiondistill[try]'" in refused(str(store))


DROP = """
async ([name, type, data]) => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0))
    const given = new DataTransfer()
    given.items.add(new File([bytes], name, {type}))
    const drag = (where, kind) => document.querySelector(where).dispatchEvent(
        new DragEvent(kind, {dataTransfer: given, bubbles: true, cancelable: true}))
    drag('.q-uploader', 'dragover')
    await new Promise(requestAnimationFrame)
    drag('.q-uploader__dnd', 'drop')
}
"""


@pytest.fixture
def browser() -> Any:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("needs chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.mark.slow
def test_the_page_shows_what_the_networks_say(browser: Any, store: Path, photo: bytes, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    plugin = tmp_path / "dusk.py"
    source = inspect.getsource(darken)
    plugin.write_text(
        "import torch\nfrom fusiondistill import DEGRADATIONS\n\n\n@DEGRADATIONS.register('darken', range(0, 6))\n"
        + source
    )
    line = command("try", str(store), "--degradation", "dusk", "--plugin", str(plugin))
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=environment(tmp_path), cwd=tmp_path, stdout=pipe, stderr=pipe, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            asked, complaints = drive(browser, address, store, photo)
        finally:
            server.send_signal(signal.SIGINT)
        output, errors = server.communicate(timeout=60)
    assert (server.returncode, output, errors) == (0, "", "")
    assert not complaints and len(asked) > 5
    assert {urlsplit(url).netloc for url in asked} - {""} == {urlsplit(address).netloc}, asked
    assert list(tmp_path.iterdir()) == [plugin]


def drive(browser: Any, address: str, store: Path, photo: bytes) -> tuple[list[str], list[str]]:
    """Use the page as a person does; returns what the browser asked the network for, and what it complained about."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked, complaints = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda one: asked.append(one.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address, wait_until="networkidle")
    drop(page, "photo.jpg", "image/jpeg", photo)
    articles = page.locator("article")
    articles.first.wait_for()
    assert articles.count() == 4 and page.locator("figure img").count() == 2
    assert "Level 3 of 0, 3, 5: part 8" in page.locator("body").inner_text()
    check(page, store, photo, 3)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    page.locator("[role=slider] [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Level 5 of 0, 3, 5").wait_for()
    wait(page, lambda: pixels(page, 1) == pictured(by_hand(photo), 5))
    check(page, store, photo, 5)
    drop(page, "notes.txt", "text/plain", b"no image")
    page.get_by_text("notes.txt: cannot be decoded").wait_for()
    assert articles.count() == 0
    return asked, complaints


def drop(page: Any, name: str, kind: str, data: bytes) -> None:
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def wait(page: Any, condition: Callable[[], bool]) -> None:
    for _ in range(100):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("waited in vain")


def pixels(page: Any, place: int) -> bytes:
    """The pixels of a picture on the page."""
    source = page.locator("figure img").nth(place).get_attribute("src")
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).tobytes()


def pictured(clean: torch.Tensor, level: int) -> bytes:
    degraded = darken(clean, torch.tensor([level]), part=8)
    return degraded[0].permute(1, 2, 0).contiguous().numpy().tobytes()


def check(page: Any, store: Path, photo: bytes, level: int) -> None:
    """Compare what stands on the page with the stored networks' answers to the image degraded by hand."""
    assert pixels(page, 1) == pictured(by_hand(photo), level)
    image = darken(by_hand(photo), torch.tensor([level]), part=8)
    for title, network in (("FusionDistill", "fusiondistill"), ("Expert: Blur", "expert-blur")):
        best = said(store, network, image)
        lines = page.locator("article").filter(has_text=f"{title}, seed 0").inner_text().split("\n")
        told = [text for text in lines if text.strip()]
        expected = [text for name, chance in best for text in (name, f"{100 * chance:.1f} %")]
        assert told == [f"{title}, seed 0", *expected]
