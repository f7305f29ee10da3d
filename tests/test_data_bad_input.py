"""Damaged, hostile and mistaken data: a DataError that names the file and row, quickly, with nothing run or written."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fusiondistill.data import DataError, cache, cifar, fingerprint, load_images
from fusiondistill.data.pickles import read_pickle


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(height=4, width=4, value=7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images, labels, names=("a", "b"), label_type=None) -> Path:
    cells = pa.array(
        [{"bytes": data, "path": None} for data in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": cells, "label": pa.array(labels, label_type or pa.int64())})
    features = {"label": {"names": names}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    return path


def fails(*parts: str, name="parquet", split="train", root=None) -> None:
    """Loading must fail with a DataError that contains all the parts."""
    with pytest.raises(DataError) as error:
        load_images(name, split, root)
    for part in parts:
        assert part in str(error.value), str(error.value)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_a_parquet_file_that_is_missing_cut_or_something_else(tmp_path):
    fails("needs a root")
    fails("nowhere", "no such file or folder", root=tmp_path / "nowhere")
    fails("holds no .parquet file", root=tmp_path)
    whole = write_parquet(tmp_path / "train.parquet", [png()] * 50, [0, 1] * 25)
    fails("no test split", "test-*.parquet", split="test", root=tmp_path)
    content = whole.read_bytes()
    for damaged in (b"", b"PAR1", b"no parquet at all", content[:-10], content[: len(content) // 2]):
        whole.write_bytes(damaged)
        fails("train.parquet", "Fetch it again", root=tmp_path)
    assert fingerprint("parquet", root=tmp_path)  # decodes nothing, so it does not notice


def test_a_missing_shard_is_named(tmp_path):
    write_parquet(tmp_path / "train-00001-of-00003.parquet", [png()], [0])
    write_parquet(tmp_path / "train-00000-of-00003.parquet", [png()], [0])
    fails("train-00002-of-00003.parquet", "missing", root=tmp_path)


@pytest.mark.parametrize("label", [2, -1, 10**12])
def test_a_label_outside_the_classes_is_named_with_its_row(label, tmp_path):
    write_parquet(tmp_path / "train.parquet", [png()] * 5, [0, 1, 0, label, 1])
    fails("train.parquet, row 3", f"label {label} is outside the 2 classes", root=tmp_path)


def test_rows_without_label_image_or_the_right_size(tmp_path):
    file = write_parquet(tmp_path / "train.parquet", [png()] * 3, [0, None, 1])
    fails("train.parquet, row 1", "no label", root=tmp_path)
    write_parquet(file, [png(), png(), None], [0, 0, 1])
    fails("train.parquet, row 2", "image bytes", root=tmp_path)
    write_parquet(file, [png(), png()[:50]], [0, 0])
    fails("train.parquet, row 1", "cannot be decoded", root=tmp_path)
    write_parquet(file, [png(), png(4, 5)], [0, 0])
    fails("train.parquet, row 1: the image is 5x4, but", "row 0 is 4x4", root=tmp_path)
    write_parquet(file, [], [])
    fails("holds no image", root=tmp_path)
    write_parquet(file, [png()], [0], names="ab")
    fails("no list of names", root=tmp_path)
    write_parquet(file, [png()], [0.5], label_type=pa.float64())
    fails("train.parquet", "column 'label' holds numbers that are not whole", root=tmp_path)
    write_parquet(file, [png()], [b"a"], label_type=pa.binary(1))
    fails(
        "train.parquet",
        "no label (integers or texts) column among image (struct<bytes: binary, path: string>), label (fixed_size_",
        root=tmp_path,
    )
    pq.write_table(pa.table({"label": [1]}), file)
    fails("no image (a struct with `bytes`) column", root=tmp_path)


def test_a_parquet_file_that_lies_about_its_rows(tmp_path):
    """The number of rows stands in the footer, as a thrift integer; the pages know better."""
    file = write_parquet(tmp_path / "train.parquet", [png()] * 100, [0, 1] * 50)
    content = file.read_bytes()
    footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    true, lie = b"\xc8\x01", b"\xca\x01"  # 100 and 101 as zigzag varints
    assert content.count(true, footer) > 0
    for at in range(footer, len(content) - 8):
        if content[at : at + 2] == true:
            file.write_bytes(content[:at] + lie + content[at + 2 :])
            try:
                assert len(load_images("parquet", "train", tmp_path)) == 100  # a count that the reader does not use
            except DataError as error:
                assert "train.parquet" in str(error)
    everywhere = content[:footer] + content[footer:].replace(true, lie)
    file.write_bytes(everywhere)
    fails("train.parquet", root=tmp_path)


FLIPS = """
import sys
from pathlib import Path
from fuzzing import cases
from fusiondistill.data import DataError
from fusiondistill.sources import SOURCES

(sound,), _ = cases()["parquet"]
path = Path(sys.argv[1]) / "train.parquet"
footer = int.from_bytes(sound[-8:-4], "little")
for at in range(len(sound) - footer - 8, len(sound)):
    path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    print(at, flush=True)
    try:
        list(SOURCES["parquet"].function({path.name: path}, "train").rows)
    except DataError:
        pass
print("whole")
"""


def test_a_flipped_bit_in_what_a_parquet_file_says_of_itself_does_not_end_the_process(tmp_path):
    """As it did, in C++, where a column's statistics were damaged: in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    line = [sys.executable, "-c", FLIPS, str(tmp_path)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0 and done.stdout.endswith("whole\n"), (done.stdout[-20:], done.stderr[-1000:])


def test_a_parquet_bomb_stays_small(tmp_path):
    """One cell of 40 MB, 1,000 times: 40 GB out of a few kilobytes."""
    large = pa.array([bytes(40 * 2**20)], pa.binary())
    cell = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), large)
    image = pa.StructArray.from_arrays([cell, pa.nulls(1000, pa.string())], names=["bytes", "path"])
    table = pa.table({"image": image, "label": pa.array(np.zeros(1000, np.int64))})
    pq.write_table(table, tmp_path / "train.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "train.parquet").stat().st_size < 10_000
    fails("train.parquet, row 0", "cannot be decoded", root=tmp_path)
    assert pa.default_memory_pool().max_memory() < 2**30


def test_a_set_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MAX_SET_BYTES", 100)
    write_parquet(tmp_path / "train.parquet", [png()] * 3, [0, 0, 0])
    fails("row 2", "limit of 100 bytes", root=tmp_path)


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def write_cifar100(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True)
    batch = {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [0, 1, 0]} | changes
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}, protocol=2))
    return folder


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ENDLESS = b")" + b"2\x86" * 60
"""A tuple of twice the same, of twice the same, ...: 2**60 parts in 121 bytes."""


def hostile(tmp_path: Path) -> dict[str, bytes]:
    touch = tmp_path / "owned"
    return {
        "os.system": pickle.dumps(Call(os.system, f"touch {touch}")),
        "eval": pickle.dumps({"data": Call(eval, f"open({str(touch)!r}, 'w')")}, protocol=2),
        "numpy.load": pickle.dumps(Call(np.load, str(touch))),
        "codec": pickle.dumps(Call(__import__("_codecs").encode, "x", "rot13")),
        "a huge array": b"\x80\x02cnumpy\nndarray\n((J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftU\x02u1tR.",
        "a huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
        "wrong shape": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00U\x01btR(K\x01K\x05K\x06"
        b"\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tRU\x02zzU\x02zztb.",
        "objects": b"\x80\x02cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.",
        "change": b"\x80\x02cnumpy\ndtype\nN}U\x08__call__K\x01s\x86b.",
        "attribute": pickle.dumps(Call(getattr, "", "join")),
        "a list": pickle.dumps([1, 2]),
        "a key that takes hours": b"\x80\x02}" + ENDLESS + b"K\x01s.",
        "keys that take hours": b"\x80\x02}(" + ENDLESS + b"K\x01u.",
        "a key of a dictionary at once": b"(" + ENDLESS + b"K\x01d.",
        "a set that takes hours": b"\x80\x04\x8f(" + ENDLESS + b"\x90.",
        "a frozen set that takes hours": b"\x80\x04(" + ENDLESS + b"\x91.",
        "a type that takes hours": b"\x80\x02cnumpy\ndtype\n" + ENDLESS + b"\x85R.",
        "a module that takes hours": b"\x80\x04" + ENDLESS + ENDLESS + b"\x93.",
        "a shape that fills the memory": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        b"K\x00U\x01btR(K\x01" + ENDLESS + b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tRU\x02zzU\x02zztb.",
        "bytes by their number": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "cut": pickle.dumps({"data": [1] * 100})[:-30],
        "nothing": b"",
        "text": b"<html>404</html>",
    }


@pytest.mark.parametrize("kind", hostile(Path()))
def test_a_hostile_pickle_runs_nothing(kind, tmp_path):
    start = time.process_time()
    with pytest.raises(DataError, match=r"^here: not a file of the CIFAR archives") as error:
        read_pickle(hostile(tmp_path)[kind], "here")
    assert not (tmp_path / "owned").exists() and time.process_time() - start < 10 and len(str(error.value)) < 1000
    write_cifar100(tmp_path / "c")
    (tmp_path / "c" / "train").write_bytes(hostile(tmp_path)[kind])
    fails(str(tmp_path / "c" / "train"), name="cifar100", root=tmp_path / "c")


def test_the_hostile_pickles_would_have_run(tmp_path):
    """Otherwise the test above proves nothing."""
    pickle.loads(hostile(tmp_path)["os.system"])
    assert (tmp_path / "owned").exists()


def test_cifar_files_that_do_not_fit(tmp_path, monkeypatch):
    root = tmp_path / "c"
    bad = [
        ({"fine_labels": [0, 5, 1]}, ("train, row 1", "label 5")),
        ({"fine_labels": [0]}, ("train", "3 labels")),
        ({"fine_labels": [0, "x", 1]}, ("train", "labels")),
        ({"data": np.zeros((3, 5), np.uint8)}, ("3,072",)),
        ({"data": np.zeros((3, 3072), np.int64)}, ("uint8",)),
        ({"data": 5}, ("train", "'data'")),
    ]
    for changes, parts in bad:
        write_cifar100(root, **changes)
        fails(*parts, name="cifar100", root=root)
    write_cifar100(root)
    assert len(load_images("cifar100", "train", root)) == 3
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": 3}))
    fails("meta", "class names", name="cifar100", root=root)
    (root / "meta").unlink()
    fails("meta", "missing", name="cifar100", root=root)
    fails("nowhere", "no such folder", name="cifar100", root=tmp_path / "nowhere")
    monkeypatch.setattr(cifar, "MAX_FILES_BYTES", 100)
    write_cifar100(root, filenames=[1])
    fails("larger than the limit", name="cifar100", root=root)


# --- at random --------------------------------------------------------------------------------------------------------


def write_zip(path: Path) -> Path:
    members = {"wnids.txt": b"n1\n", "words.txt": b"n1\tone\n", "train/n1/images/a.JPEG": png()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_never_ends_in_anything_but_an_image_set_or_a_data_error(seed, tmp_path):
    rng = np.random.default_rng(seed)
    originals = {
        "parquet": write_parquet(tmp_path / "train.parquet", [png(value=i) for i in range(20)], [0, 1] * 10),
        "tiny_imagenet": write_zip(tmp_path / "x.zip"),
        "cifar100": write_cifar100(tmp_path / "c") / "train",
    }
    for name, path in originals.items():
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            damaged = content[: rng.integers(1, len(content) + 1)].copy() if rng.random() < 0.3 else content.copy()
            places = rng.integers(0, len(damaged), rng.integers(1, 4))
            damaged[places] = rng.integers(0, 256, len(places))
            path.write_bytes(damaged.tobytes())
            try:
                assert len(load_images(name, "train", path.parent if name == "cifar100" else path)) > 0
            except DataError as error:
                assert path.name in str(error) or "among" in str(error)
