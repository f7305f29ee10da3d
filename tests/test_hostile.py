"""Files made to harm: each a clear error, soon, within little memory, and nothing is written outside."""

from __future__ import annotations

import ast
import io
import json
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

import fusiondistill
import fusiondistill_runner
from fusiondistill.checkpoints import CheckpointError, load_checkpoint, sealed
from fusiondistill.config_file import ConfigError, load_points, parse
from fusiondistill.data import DataError, cifar
from fusiondistill.sources import cifar100
from fusiondistill_runner.planning.stage import FORMAT
from fusiondistill_runner.storage import noted_plans
from fusiondistill_runner.storage.store import Store

BOUNDED = """
import json, resource, sys, time
import torch, numpy, safetensors.torch
from fusiondistill.checkpoints import load_checkpoint
from fusiondistill.data.corruptions import check_corruptions
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, -1))
for path in sys.argv[1:]:
    began = time.monotonic()
    try:
        check_corruptions(path, 10) if "fog" in path else load_checkpoint(path)
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error), time.monotonic() - began]))
    else:
        print(json.dumps(["none", path, 0]))
"""


def lying_safetensors(shape: int, header: int | None = None) -> bytes:
    text = json.dumps({"w": {"dtype": "F32", "shape": [shape], "data_offsets": [0, 4 * shape]}}).encode()
    return struct.pack("<Q", len(text) if header is None else header) + text + bytes(16)


@pytest.mark.parametrize(
    "data",
    [lying_safetensors(2**40), lying_safetensors(4, 2**60), lying_safetensors(4, 2**32), lying_safetensors(2**62)],
)
def test_a_safetensors_header_that_lies(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"model.safetensors is no intact safetensors file"):
        load_checkpoint(path)
    assert time.process_time() - began < 10


def test_files_that_unpack_or_claim_to_be_gigabytes(tmp_path: Path) -> None:
    """In a process with 300 MB to spare: each is refused by what it says, before it is read."""
    import torch

    def sparse(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(8 * 2**30)  # takes no room on the disk

    sparse(tmp_path / "manifest" / "manifest.json")
    sparse(tmp_path / "grown" / "model.x.safetensors")
    entry = {"file": "model.x.safetensors", "sha256": "0" * 64, "bytes": 10}
    facts = sealed({"attempt": "x", "files": {"model.safetensors": entry}})
    (tmp_path / "grown" / "manifest.json").write_bytes(facts)
    sound, packed = tmp_path / "sound.pt", tmp_path / "packed.pt"
    torch.save({"w": torch.zeros(2**20)}, sound)
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) * (100 if name.endswith("data/0") else 1))
    assert packed.stat().st_size < 2**22
    for name, count in (("fog-a", 5 * 2**28), ("fog-b", 5 * 2**50)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fog.npy").write_bytes(HEADER + (LIE % count).ljust(117) + b"\n" + bytes(5 * 3072))
    expected = {
        "manifest": ("CheckpointError", "is no manifest"),
        "grown": ("CheckpointError", "is damaged"),
        "packed.pt": ("CheckpointError", "larger than the file"),
        "fog-a": ("DataError", "fog.npy: is no plain .npy file, or is cut short"),
        "fog-b": ("DataError", "fog.npy: is no plain .npy file, or is cut short"),
    }
    line = [sys.executable, "-c", BOUNDED, *(str(tmp_path / name) for name in expected)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    said = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(said) == len(expected), done.stdout + done.stderr
    for (kind, message, seconds), (wanted, part) in zip(said, expected.values(), strict=True):
        assert kind == wanted and part in message and seconds < 20, (kind, message, seconds)


HEADER = b"\x93NUMPY\x01\x00\x76\x00"
LIE = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 32, 32, 3), }"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\0b", "..\\x"])
def test_a_manifest_that_leads_out_of_its_directory(name: str, tmp_path: Path) -> None:
    entry = {"file": name, "sha256": "0" * 64, "bytes": 10}
    (tmp_path / "manifest.json").write_bytes(sealed({"attempt": "x", "files": {"model.safetensors": entry}}))
    with pytest.raises(CheckpointError, match="points outside its directory"):
        load_checkpoint(tmp_path)


BOMBS = {
    "aliases": "experiment: x\nbase: &a {epochs: 1}\nfusing: [" + "*a, " * 9 + "]\n",
    "laughs": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    "merge": "experiment: x\nbase: &b {epochs: 1}\nfusing:\n  <<: [*b, *b]\n",
    "sixty": "experiment: x\nseeds: [" + ":".join(["1"] + ["59"] * 90_000) + "]\n",
    "digits": "experiment: x\nseeds: [" + "9" * 200_000 + "]\n",
    "hexadecimal": "experiment: x\nseeds: [0x" + "f" * 2_000 + "]\n",
    "deep": "experiment: x\nseeds: " + "[" * 100_000 + "\n",
    "long": "experiment: x\nseeds: [" + "1, " * 10**6 + "]\n",
    "wide": "experiment: x\n" + "".join(f"k{i}: 1\n" for i in range(8_000)),
    "python": "experiment: !!python/object/apply:os.system ['touch owned']\n",
    "set": "experiment: x\nseeds: !!set {1, 2}\n",
    "binary": "experiment: x\nseeds: !!binary x\n",
    "seeds": "experiment: x\nseeds: [" + ", ".join(map(str, range(10_000))) + "]\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_yaml_bomb(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[kind])
    began = time.monotonic()
    if kind == "seeds":
        load_points(str(path))  # no bomb, but as large as one
    else:
        with pytest.raises(ConfigError) as caught:
            load_points(str(path))
        assert len(str(caught.value)) < 100_000
    assert time.monotonic() - began < 60
    assert [one.name for one in tmp_path.iterdir()] == ["bomb.yaml"]


@pytest.mark.parametrize(
    "text", ["search=&a [*a]", "seeds=" + "9" * 5000, "base=!!python/name:os.system x", "data=[", "a.b="]
)
def test_a_value_on_the_command_line_is_read_as_carefully(text: str) -> None:
    with pytest.raises(ConfigError):
        parse("experiment: x\n", overrides=[text])


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", "", "a\\b", "~x", "a b", "x" * 65, ".hidden"])
def test_an_experiment_cannot_leave_its_store(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment"):
        parse(f"experiment: {json.dumps(name)}\n")


def test_the_points_of_a_sweep_cannot_either(tmp_path: Path) -> None:
    text = "experiment: x\ndata: {name: folder, root: x}\n"
    text += "sweep:\n  any: [{base: {checkpoint: ../../etc/a}}, {data: {root: /a/../../b}}]\n"
    try:
        _, points = load_points(str(_written(tmp_path / "x.yaml", text)))
    except ConfigError as error:
        assert "checkpoint" in str(error)
        text = text.replace("{base: {checkpoint: ../../etc/a}}", "{data: {root: ../../etc}}")
        _, points = load_points(str(_written(tmp_path / "x.yaml", text)))
    assert all(set(point.experiment) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-_") for point in points)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_plan_cannot_make_a_sweep_delete_something_else(tmp_path: Path) -> None:
    store, victim = Store(tmp_path / "store"), tmp_path / "victim.json"
    victim.write_text("{}")
    content = {"format": FORMAT, "experiment": "../../victim", "sweep": "x", "order": 0, "config": {}}
    store.write(sealed(content), "plans", "y.json")
    with pytest.raises(CheckpointError, match=r"y\.json is damaged: it is the plan of '\.\./\.\./victim'"):
        noted_plans.retire_points(store, "x", [])
    assert victim.exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"x", to: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, to, len(data) if kind == tarfile.REGTYPE else 0
    return info, data


FOLDER = cifar100.LAYOUT.folder


@pytest.mark.parametrize(
    "bad",
    [
        member("../evil"),
        member("/tmp/fusiondistill-evil"),
        member(f"{FOLDER}/train", tarfile.SYMTYPE, to="/etc/passwd"),
        member(f"{FOLDER}/train", tarfile.LNKTYPE, to="../../evil"),
        member(f"{FOLDER}/train", tarfile.DIRTYPE),
        member(f"{FOLDER}/train", tarfile.FIFOTYPE),
        member(f"{FOLDER}/../../evil"),
    ],
    ids=lambda bad: f"{bad[0].name} {bad[0].type!r}",
)
def test_an_archive_whose_members_lead_elsewhere(bad: tuple[tarfile.TarInfo, bytes], tmp_path: Path) -> None:
    """Only files of the expected names are taken out; all others stay in the archive."""
    members = [member(f"{FOLDER}/{name}") for name in cifar100.LAYOUT.files if f"{FOLDER}/{name}" != bad[0].name]
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as tar:
        for info, data in [bad, *members]:
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "out").mkdir()
    if bad[0].name == f"{FOLDER}/train":
        with pytest.raises(DataError, match=r"no plain file|not the official archive"):
            cifar._take_out(tmp_path / "cifar.tar.gz", cifar100.LAYOUT, tmp_path / "out")
    else:
        cifar._take_out(tmp_path / "cifar.tar.gz", cifar100.LAYOUT, tmp_path / "out")
        assert {path.name for path in (tmp_path / "out").iterdir()} == set(cifar100.LAYOUT.files)
    assert {path.name for path in tmp_path.iterdir()} == {"cifar.tar.gz", "out"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert not Path("/tmp/fusiondistill-evil").exists()


# --- what the code may not do -----------------------------------------------------------------------------------------

FORBIDDEN = {
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load", "dill.load", "dill.loads",
    "marshal.load", "marshal.loads", "shelve.open", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load",
    "yaml.safe_load", "numpy.load", "np.load", "torch.load", "torch.jit.load", "torch.package.PackageImporter",
    "eval", "exec", "os.system", "os.popen", "tarfile.extractall", "shutil.unpack_archive", "pd.read_pickle",
    "pickle.Unpickler", "pickle._Unpickler", "Tuner.restore", "tune.Tuner.restore", "TorchTrainer.restore",
}  # fmt: skip
OBJECTS = {
    "all_gather_object", "broadcast_object_list", "gather_object", "recv_object_list", "scatter_object_list",
    "send_object_list",
}  # fmt: skip
"""How torch.distributed sends objects: pickled. Forbidden under any name of the module."""
ALLOWED = {
    ("fusiondistill/plugins.py", "exec"): "the plugins that a config names, announced when they are loaded",
    ("fusiondistill/signatures.py", "eval"): "the annotations of a function, in the file that the function is in",
    ("fusiondistill/torch_files.py", "torch.load"): "with weights_only=True",
    ("fusiondistill_runner/working/train.py", "torch.load"): "with weights_only=True",
    ("fusiondistill/data/cache.py", "np.load"): "with allow_pickle=False",
    ("fusiondistill/data/pickles.py", "pickle._Unpickler"): "the base of the one that admits five names",
}


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_is_unpickled_evaluated_or_extracted() -> None:
    found = {}
    for package in (fusiondistill, fusiondistill_runner):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            tree, name = ast.parse(path.read_text()), f"{root.name}/{path.relative_to(root).as_posix()}"
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module in (
                    "pickle",
                    "marshal",
                    "shelve",
                    "dill",
                    "joblib",
                ):
                    found[name, f"from {node.module}"] = node
                if isinstance(node, ast.Attribute | ast.Name) and dotted(node) in FORBIDDEN:
                    found.setdefault((name, dotted(node)), node)
                if isinstance(node, ast.Attribute) and node.attr in {"extractall", "extract", *OBJECTS}:
                    found[name, node.attr] = node
                if isinstance(node, ast.Name) and node.id in OBJECTS:
                    found[name, node.id] = node
                if isinstance(node, ast.Call) and (function := dotted(node.func)) in FORBIDDEN:
                    words = {word.arg: word.value for word in node.keywords}
                    found[name, function] = node
                    if function in ("torch.load", "np.load"):
                        word, wanted = ("weights_only", True) if function == "torch.load" else ("allow_pickle", False)
                        value = words.get(word)
                        assert isinstance(value, ast.Constant) and value.value is wanted, f"{name}:{node.lineno}"
    assert set(found) == set(ALLOWED), set(found) ^ set(ALLOWED)
