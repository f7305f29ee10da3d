"""Files that are committed: whole, or not there; what is damaged, foreign or hostile is named and refused."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import fs

from fusiondistill import build_model, load_checkpoint, load_model, save_checkpoint
from fusiondistill.checkpoints import (
    CheckpointError,
    card_of,
    check_card,
    checkpoint_digest,
    commit,
    digest,
    new_attempt,
    open_location,
    read_file,
    read_manifest,
    write_file,
)

LOCAL = fs.LocalFileSystem()
CARD = card_of(
    "cifar_resnet8", None, classes=["a", "b", "c"], mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), size=(8, 8), dataset="d"
)


def state(classes: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_model("cifar_resnet8", classes).state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return sorted(one) == sorted(other) and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("place", ["folder", "folder.v2/", "model.safetensors", "deep/er/model.safetensors"])
def test_round_trip(tmp_path: Path, place: str) -> None:
    saved = state()
    save_checkpoint(tmp_path / place, saved, CARD)
    found, card = load_checkpoint(tmp_path / place)
    assert equal(found, saved) and card == CARD
    assert {t.dtype for t in found.values()} == {torch.float32, torch.int64}
    for way in (str(tmp_path / place), f"file://{tmp_path / place}"):
        assert equal(load_checkpoint(way)[0], saved)
    weights = next(p for p in tmp_path.rglob("*.safetensors"))
    assert checkpoint_digest(tmp_path / place) == digest(weights.read_bytes())


def test_a_loaded_model_takes_raw_images(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", state(), CARD)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    network = build_model("cifar_resnet8", 3)
    network.load_state_dict(state())
    mean, std = (torch.tensor(CARD[name]).view(3, 1, 1) for name in ("mean", "std"))
    expected = network.eval()((images - mean) / std)
    for place in ("c", "c/manifest.json"):
        model = load_model(tmp_path / place)
        assert not model.training and model.classes == ("a", "b", "c")
        assert torch.equal(model(images), expected)
        assert torch.equal(model.forward_features(images)[0], expected)


def test_a_damaged_byte_anywhere_is_found_and_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"w": torch.arange(9.0)}, CARD)
    files = list((tmp_path / "c").iterdir())
    assert len(files) == 2
    for path in files:
        sound = path.read_bytes()
        for place in range(0, len(sound), 7):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=str(path.name if path.suffix == ".safetensors" else "c/")):
                load_checkpoint(tmp_path / "c")
        for length in (0, 1, len(sound) // 2, len(sound) - 1):
            path.write_bytes(sound[:length])
            with pytest.raises(CheckpointError, match="damaged"):
                load_checkpoint(tmp_path / "c")
        path.write_bytes(sound)
    weights = next(p for p in files if p.suffix == ".safetensors")
    weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{weights.name} is missing although the manifest names it"):
        load_checkpoint(tmp_path / "c")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    commit(*open_location(tmp_path / "judged"), {}, {"kind": "evaluate", "inputs": {"model": "base-1"}}, "a")
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    for name in ("text.txt", "x.yaml", "x.onnx"):
        (tmp_path / name).write_text("experiment: hello")
    (tmp_path / "cut.safetensors").write_bytes(b"\x05\x00")
    for name, message in {
        "nowhere": "no such checkpoint",
        "nowhere.pt": "no such checkpoint",
        "empty": "is an empty folder",
        ".": "holds no manifest.json and no model",
        "judged": r"is an evaluation, which holds no network; it judged: base-1$",
        "text.txt": "is a text file, neither a file of torch.save nor of safetensors",
        "x.yaml": "is a YAML file, .* A config is no model",
        "x.onnx": "is an ONNX file, .* run it with onnxruntime",
        "x.jpg": "is an image, .* The model stands first",
        "cut.safetensors": "no intact safetensors file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint_digest(tmp_path / "nowhere")


def test_weights_that_do_not_fit_name_the_tensors(tmp_path: Path) -> None:
    other = state(classes=4)
    del other[next(iter(other))]
    save_checkpoint(tmp_path / "c", other, CARD)
    with pytest.raises(CheckpointError, match=r"c does not fit cifar_resnet8: \S+ is missing; .* instead of \(3"):
        load_model(tmp_path / "c")
    save_checkpoint(tmp_path / "bare.safetensors", state(), {})
    with pytest.raises(CheckpointError, match="carries no card"):
        load_model(tmp_path / "bare.safetensors")


def test_plain_state_dicts_of_pytorch(tmp_path: Path) -> None:
    for name, content in {"a.pth": state(), "b.pt": {"epoch": 3, "state_dict": state()}}.items():
        torch.save(content, tmp_path / name)
        found, card = load_checkpoint(tmp_path / name)
        assert equal(found, state()) and card == {}
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "p.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(tmp_path / "p.pt")[0]["w"].tolist() == [1, 1]
    for content in ([1, 2], {"lr": 0.1}, torch.ones(2)):
        torch.save(content, tmp_path / "no.pt")
        with pytest.raises(CheckpointError, match=r"no\.pt holds no state dict"):
            load_checkpoint(tmp_path / "no.pt")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore")
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"w": torch.ones(1), "x": Hostile(trace)}, tmp_path / "new.pt")
    torch.save({"x": Hostile(trace)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Hostile(trace)))
    for name in ("new.pt", "old.pth", "raw.pt"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as plain weights"):
            load_checkpoint(tmp_path / name)
        assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))
    assert trace.exists()  # it would have


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_checkpoint_errors_or_sound(tmp_path: Path, zipped: bool) -> None:
    stream = io.BytesIO()
    torch.save({"w": torch.arange(5.0)}, stream, _use_new_zipfile_serialization=zipped)
    sound, path, refused = stream.getvalue(), tmp_path / "x.pt", 0
    chance = random.Random(0)
    for i in range(150):
        damaged = bytearray(sound[: chance.randrange(len(sound))] if i % 2 else sound)
        if damaged and not i % 2:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            assert "x.pt" in str(error)
            refused += 1
    assert refused > 75


def test_two_writers_never_mix(tmp_path: Path) -> None:
    """Their files are written in turn; the last manifest decides, and everything it names is its own."""
    place = str(tmp_path / "stage")
    for first, last in (("aaaa", "bbbb"), ("bbbb", "aaaa")):
        files = {who: {"model.safetensors": who.encode() * 9, "log": who.encode()} for who in (first, last)}
        for name in ("model.safetensors", "log"):  # both are in the midst of it
            for who in (first, last):
                write_file(LOCAL, f"{place}/{name}.{who}", b"half")
        for who in (first, last):
            commit(LOCAL, place, files[who], {"who": who}, who)
        manifest = read_manifest(LOCAL, place)
        assert manifest is not None and manifest["who"] == manifest["attempt"] == last
        for name, content in files[last].items():
            assert read_file(LOCAL, place, manifest, name) == content
            assert last in manifest["files"][name]["file"]
    assert len({new_attempt() for _ in range(50)}) == 50
    assert read_manifest(LOCAL, str(tmp_path / "none")) is None
    with pytest.raises(CheckpointError, match="names no other"):
        read_file(LOCAL, place, manifest, "other")


CUT_SHORT = """
import resource, signal, sys
from pyarrow import fs
from fusiondistill.checkpoints import commit, write_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    if sys.argv[2] == "file":
        write_file(fs.LocalFileSystem(), sys.argv[1] + "/file", b"new" * 10_000)
    else:
        commit(fs.LocalFileSystem(), sys.argv[1], {"a": b"new", "b": b"new" * 10_000}, {"who": "new"}, "second")
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.parametrize("what", ["file", "commit"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, what: str) -> None:
    """The kernel cuts the write short after 10,000 bytes."""
    write_file(LOCAL, str(tmp_path / "file"), b"old")
    commit(LOCAL, str(tmp_path), {"a": b"old", "b": b"old"}, {"who": "old"}, "first")
    before = {path.name for path in tmp_path.iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path), what], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "DiskFull 27", done.stderr  # EFBIG
    manifest = read_manifest(LOCAL, str(tmp_path))
    assert manifest is not None and manifest["who"] == "old"
    assert [read_file(LOCAL, str(tmp_path), manifest, name) for name in "ab"] == [b"old", b"old"]
    assert (tmp_path / "file").read_bytes() == b"old"
    left = {path.name for path in tmp_path.iterdir()} - before
    assert left == ({"a.second"} if what == "commit" else set())  # litter that nothing names


@pytest.mark.parametrize(
    "changes",
    [
        {"std": [0.0, 1.0, 1.0]}, {"std": [-1, 1, 1]}, {"std": [float("nan"), 1.0, 1.0]}, {"mean": [1e999, 1.0, 1.0]},
        {"mean": [10**400, 1, 1]}, {"mean": [1.0, 2.0]}, {"std": "111"}, {"std": [True, 1, 1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_card_that_no_image_can_be_normalised_by_is_refused_by_name(changes: dict[str, object]) -> None:
    card = card_of("cifar_resnet8", None, classes=["a"], mean=(1, 1, 1), std=(1, 1, 1), size=(8, 8), dataset="d")
    check_card(card, "here")
    with pytest.raises(CheckpointError, match=f"^here carries a card whose {next(iter(changes))} is missing or not"):
        check_card({**card, **changes}, "here")


@pytest.mark.parametrize("form", ["stage", "file.safetensors", "file.pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named_by_file_and_tensor(form: str, value: float, tmp_path: Path) -> None:
    """In each form in which a checkpoint comes, in a parameter as in a statistic, before any work starts."""
    from fusiondistill import config_file

    path = tmp_path / form
    state = build_model("cifar_resnet8", 10).state_dict()
    if form == "file.pt":
        torch.save({**state, "fc.bias": torch.full((10,), value)}, path)
    else:  # ours are written by a version that did not look
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fusiondistill.checkpoints._check_finite", lambda *_: None)
            save_checkpoint(path, {**state, "fc.bias": torch.full((10,), value)}, {})
    with pytest.raises(CheckpointError, match=rf"{form}.* not finite in fc\.bias"):
        load_checkpoint(path)
    for section in ("base: {checkpoint: %s}", "expert: {checkpoint: {blur: %s}}", "modelsoups: {checkpoint: %s}"):
        with pytest.raises(config_file.ConfigError, match=rf"line 2: .*checkpoint.*{form}.* not finite in fc\.bias"):
            config_file.parse("experiment: x\n" + section % path + "\n")


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    state = build_model("cifar_resnet8", 10).state_dict()
    statistic = next(key for key in state if key.endswith("running_var"))
    state[statistic][0] = float("inf")
    with pytest.raises(CheckpointError, match=rf"not finite in {statistic}"):
        save_checkpoint(tmp_path / "a", state, {})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a.bin", "a.pt"])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model_state", "model", "net", "network"])
def test_state_dicts_as_people_save_them(name: str, key: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: state(), "optimizer_state": {"param_groups": []}}, tmp_path / name)
    assert equal(load_checkpoint(tmp_path / name)[0], state())


def test_files_without_a_state_dict_say_what_they_hold(tmp_path: Path) -> None:
    for number, (content, said) in enumerate(
        [({"epoch": 3, "g": state(), "d": state()}, "holds 'epoch', 'g', 'd'"), (torch.nn.Linear(1, 1), "object"),
         ([1, 2], "holds a list")]
    ):  # fmt: skip
        torch.save(content, tmp_path / f"{number}.pt")
        with pytest.raises(CheckpointError, match=f"no state dict.*{said}"):
            load_checkpoint(tmp_path / f"{number}.pt")
