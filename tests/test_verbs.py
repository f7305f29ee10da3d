"""The verbs that need no cluster, as a user types them."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fusiondistill_runner.cli import main
from fusiondistill_runner.command import _guard, _terminate, tell
from fusiondistill_runner.session import _fitting
from fusiondistill_runner.storage.store import Store
from running import fusiondistill

PLUGIN = """
from fusiondistill.degradations import register

@register("darken", range(0, 11))
def darken(images, levels):
    "Lose a tenth of the light per level."
    return (images.int() * (10 - levels.view(-1, 1, 1, 1)) // 10).to(images.dtype)
"""

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
"""A program, which Pillow would hand to Ghostscript."""


def declared() -> bytes:
    """A JPEG of a few hundred bytes that declares 9,000 x 9,000 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "JPEG")
    data = stream.getvalue()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 9000, 9000) + data[at + 4 :]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def test_degrade_draws_a_grid_also_of_a_degradation_of_ones_own(photo: Path, tmp_path: Path) -> None:
    plugin, grid = tmp_path / "darken.py", tmp_path / "grid.png"
    plugin.write_text(PLUGIN)
    names = ("--degradation", "blur", "--degradation", "darken", "--plugin", str(plugin))
    done = fusiondistill("degrade", str(photo), "--out", str(grid), *names, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = np.asarray(Image.open(grid).convert("L"), dtype=float)
    left, right = np.array_split(drawn[drawn.shape[0] // 2 :], 5, axis=1)[1], drawn[drawn.shape[0] // 2 :, -60:]
    assert right.mean() < left.mean()  # the row of darken ends in black


@pytest.mark.parametrize("broken", ["missing", "cut", "text", "eps", "huge"])
def test_degrade_names_the_file_that_it_cannot_read(photo: Path, tmp_path: Path, broken: str) -> None:
    path = tmp_path / f"{broken}.jpg"
    if broken != "missing":
        path.write_bytes({"cut": photo.read_bytes()[:300], "text": b"no image", "eps": EPS, "huge": declared()}[broken])
    done = fusiondistill("degrade", str(path), "--out", str(tmp_path / "grid.png"), cache=tmp_path)
    assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "grid.png").exists()


def test_a_plugin_that_fails_is_named(photo: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text("1 / 0")
    done = fusiondistill(
        "degrade", str(photo), "--out", str(tmp_path / "g.png"), "--plugin", str(plugin), cache=tmp_path
    )
    assert done.returncode == 2 and "bad.py, line 1 (1 / 0): ZeroDivisionError" in done.stderr


def test_bench_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = fusiondistill("bench", "degradations", "--degradation", "saltpepper", "--json", str(file), cache=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert {"saltpepper 32x32, 1 thread", "saltpepper 64x64, 1 thread"} <= {row["name"] for row in rows}
    for row in rows:
        assert set(row) == {"name", "ours", "reference", "ratio", "unit", "limit"} and row["unit"] == "images/s"
        assert (
            row["ratio"] == pytest.approx(row["ours"] / row["reference"], rel=1e-3, abs=0.01)
            and row["name"] in done.stdout
        )
    assert fusiondistill("bench", "degradations", "--device", "cuda:99", cache=tmp_path).returncode == 2


def test_evaluate_names_what_is_wrong(tmp_path: Path) -> None:
    from fusiondistill import build_model
    from fusiondistill.checkpoints import card_of, save_checkpoint

    card = card_of(
        "cifar_resnet8", None, classes=["cat", "dog"], mean=(1, 1, 1), std=(1, 1, 1), size=(16, 16), dataset="pets"
    )
    save_checkpoint(tmp_path / "pets", build_model("cifar_resnet8", 2).state_dict(), card)
    for path, data, message in (
        (
            "pets",
            "digits",
            "was trained for other classes than digits has: 2 classes, not 10: it has 'cat', 'dog' and lacks '0'",
        ),
        ("nowhere", "digits", "no such checkpoint"),
        ("pets", "digitz", "did you mean 'digits'"),
    ):
        done = fusiondistill("evaluate", str(tmp_path / path), "--data", data, cache=tmp_path, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_a_network_that_learned_from_images_of_another_size_is_told(tmp_path: Path) -> None:
    from fusiondistill import build_model
    from fusiondistill.checkpoints import card_of, save_checkpoint
    from fusiondistill_runner.driving.prepared import prepare, prepare_evaluation

    digits = [str(digit) for digit in range(10)]
    paths = {}
    for side in (16, 32):
        card = card_of(
            "cifar_resnet8", None, classes=digits, mean=(1, 1, 1), std=(1, 1, 1), size=(side, side), dataset="d"
        )
        paths[side] = str(tmp_path / f"of{side}.safetensors")
        save_checkpoint(paths[side], build_model("cifar_resnet8", 10).state_dict(), card)
    said = f"{paths[32]} was trained on images of 32x32 pixels, those of digits have 16x16: expect lower accuracy"
    assert prepare_evaluation(list(paths.values()), [], str(tmp_path / "store"), data="digits").notes[-1] == said
    config = tmp_path / "c.yaml"
    config.write_text(f"experiment: x\nmodel: cifar_resnet8\nbase: {{checkpoint: {paths[32]}}}\n")
    assert prepare(str(config), store=str(tmp_path / "store")).notes[-1] == said


def test_a_plugin_that_ends_the_process_or_misses_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    source = (
        'import sys\nfrom fusiondistill import SOURCES\n@SOURCES.register("mine")\ndef mine(files, split):\n    "M."\n'
    )
    for line in ("sys.exit(3)", "open('/nowhere/at/all')", "raise KeyboardInterrupt"):
        (tmp_path / "p.py").write_text(f"{source}    {line}\n")
        (tmp_path / "c.yaml").write_text("experiment: x\nplugins: [p.py]\ndata: {name: mine}\n")
        done = fusiondistill("validate", "c.yaml", cache=tmp_path, cwd=tmp_path)
        assert done.returncode == 2 and f"error: plugin p.py, line 6 ({line}): " in done.stderr, done.stderr


def verbs_of(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs_of(command, f"{name} ")
        else:
            yield f"{above}{name}", command


@pytest.mark.parametrize(("name", "verb"), list(verbs_of(main)))
def test_the_help_of_a_verb_explains_every_option_and_names_every_argument(name: str, verb: click.Command) -> None:
    assert verb.help and verb.epilog
    for one in verb.params:
        if isinstance(one, click.Option):
            assert one.help and len(one.help.split()) > 3, f"{name} {one.opts[0]}"
        else:
            said = one.human_readable_name.split("]")[-1].rstrip(".")
            assert said in verb.help, f"{name}: its help does not say what {said} is"


def test_the_help_of_bench_says_the_speeds_that_it_assumes() -> None:
    from click.testing import CliRunner

    from fusiondistill_runner.cli import main
    from fusiondistill_runner.forecasting.paper_schedule import SPEEDS

    said = " ".join(CliRunner().invoke(main, ["bench", "--help"]).output.split())
    assert all(f"{side}={speed:g} (" in said for side, speed in SPEEDS.items())
    page = " ".join((Path(__file__).parent.parent / "docs" / "benchmarks.md").read_text().split())
    assert f"Simulated at {SPEEDS[32]:,.0f} ResNet-56" in page and f"assumed {SPEEDS[64]:,.0f}" in page


def test_mistakes_of_evaluates_options_name_the_option(tmp_path: Path) -> None:
    (tmp_path / "m.pt").touch()
    options = [
        "--degradation", "blur", "--degradation", "bluur", "--degradation", "{name: blur, levels: 0..99}",
        "--unseen", "foog", "--corruptions", "nowhere", "--set", "evaluation.evry=2",
    ]  # fmt: skip
    said = CliRunner().invoke(main, ["evaluate", str(tmp_path / "m.pt"), "--data", "digits", *options])
    assert said.exit_code == 2
    for line in (
        "  --degradation bluur: no degradation 'bluur'; did you mean 'blur'?",
        "  --degradation {name: blur, levels: 0..99}: levels: blur has the levels 0..50",
        "  --unseen foog: no degradation 'foog'",
        "  --corruptions nowhere: no such folder: nowhere",
        "  --set: evaluation.evry: unknown key; did you mean 'every'?",
    ):
        assert line in said.output, said.output
    said = CliRunner().invoke(main, ["evaluate", str(tmp_path / "m.pt"), "--data", "digit"])
    assert said.exit_code == 2 and "  --data digit: no data set 'digit'; did you mean 'digits'?" in said.output


@pytest.mark.parametrize("nothing_left", [False, True])
def test_an_interrupted_verb_says_what_it_leaves(nothing_left: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="75"):
        _guard(lambda: _terminate(), nothing_left=nothing_left)
    assert ("nothing was written" in capsys.readouterr().err) == nothing_left


def test_a_slip_in_the_kind_of_a_list_is_told() -> None:
    done = CliRunner().invoke(main, ["list", "confg"])
    assert done.exit_code == 2 and "config" in done.stderr.replace("'confg'", ""), done.stderr


def test_names_are_shown_whole() -> None:
    assert _fitting(["a-b", "c-d"], 8) == "a-b, c-d" and _fitting(["a-b", "c-d", "e"], 10) == "a-b, ..."


def test_an_empty_folder_is_called_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["data", "check", str(tmp_path)])
    assert done.exit_code == 2 and f"{tmp_path}: is an empty folder" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "asked, told",
    [
        ("gpus_per_worker=64", "1 CPU and 64 GPU, which no node has"),
        ("cpus_per_worker=99999", "99999 CPU and "),
        ("workers_per_run=9999", "resources.workers_per_run is 9999, but only "),
    ],
)
def test_a_run_that_this_machine_can_never_hold_leaves_no_store(
    asked: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "x.yaml").write_text(
        "experiment: x\ndata: {name: digits, train_images: 40, test_images: 9}\nmodel: cifar_resnet8\nmethods: [base]\n"
    )
    line = ["run", str(tmp_path / "x.yaml"), "--set", f"resources.{asked}", "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2 and told in done.output and "starting Ray," not in done.output
    assert not (tmp_path / "store").exists()


def test_on_a_terminal_lines_are_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"  note: {'word ' * 40}end\nshort"
    tell(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tell(text)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[0].startswith("  note") and lines[1].startswith("    word")
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_store_that_takes_no_files_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = r"the store .* takes no files \(.*\): give another --store"
    with pytest.raises(ValueError, match=told), Store(tmp_path / place).held():
        pass
