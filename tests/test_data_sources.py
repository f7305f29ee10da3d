"""The named data sets, made tiny here and the real ones of the shared data folder, against other readers."""

import csv
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import pickle
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusiondistill.data import DataError, fingerprint, load_images

SHARED = Path(os.environ.get("FUSIONDISTILL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set FUSIONDISTILL_TEST_DATA to the folder of real images")
    return path


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def decoded(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB"))).permute(2, 0, 1)


def random_images(n: int, height: int = 6, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_the_scans_doubled_in_size():
    (place,) = importlib.util.find_spec("sklearn").submodule_search_locations
    with gzip.open(Path(place) / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.array([[float(cell) for cell in row] for row in csv.reader(file)])
    scans, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    test_rows = sorted(row for label in range(10) for row in np.flatnonzero(labels == label)[-40:])
    rows = {"test": test_rows, "train": sorted(set(range(1797)) - set(test_rows))}
    for split, count in (("train", 1397), ("test", 400)):
        images = load_images("digits", split)
        assert len(images) == count and not images.flip and images.classes == list("0123456789")
        assert images.images.shape == (count, 3, 16, 16) and images.labels.tolist() == labels[rows[split]].tolist()
        assert torch.equal(images.images[:, 0], images.images[:, 2])
        # Bilinear doubling: every new pixel is 3/4 of its own scan pixel and 1/4 of the nearer neighbour's.
        padded = np.pad(scans[rows[split]] * 255 / 16, ((0, 0), (1, 1), (1, 1)), "edge")
        own = padded[:, 1:-1].repeat(2, axis=1) * 0.75
        own[:, 0::2] += padded[:, :-2] * 0.25
        own[:, 1::2] += padded[:, 2:] * 0.25
        double = own[:, :, 1:-1].repeat(2, axis=2) * 0.75
        double[:, :, 0::2] += own[:, :, :-2] * 0.25
        double[:, :, 1::2] += own[:, :, 2:] * 0.25
        assert np.abs(images.images[:, 0].numpy() - double).max() <= 1.5
    assert load_images("digits", "test").labels.bincount().tolist() == [40] * 10


def test_digits_take_no_root(tmp_path):
    with pytest.raises(DataError, match="takes no root"):
        load_images("digits", "train", tmp_path)


# --- CIFAR ------------------------------------------------------------------------------------------------------------


def write_cifar10(folder: Path, rows: int = 3, protocol: int = 2) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    written = {}
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        data = random_images(rows, 1, 1024, seed=number).reshape(rows, 3072)
        batch = {b"data": data, b"labels": [(number + i) % 10 for i in range(rows)], b"filenames": [b"x.png"] * rows}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        written[name] = data
    names = {b"label_names": [f"class {i}".encode() for i in range(10)], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=protocol))
    return written


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_in_place(tmp_path, protocol, inside):
    written = write_cifar10(tmp_path / "root" / inside, protocol=protocol)
    train, test = (load_images("cifar10", split, tmp_path / "root") for split in ("train", "test"))
    expected = np.concatenate([written[f"data_batch_{i}"] for i in range(1, 6)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(train.images.numpy(), expected)
    assert np.array_equal(test.images.numpy(), written["test_batch"].reshape(-1, 3, 32, 32))
    assert train.labels.tolist() == [(number + i) % 10 for number in range(5) for i in range(3)]
    assert train.classes[7] == "class 7" and train.flip
    assert (train.mean, train.std) == ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


def test_a_pickle_as_python_2_wrote_it():
    """The official archives were written by Python 2: strings are bytes, and its numpy has another module path."""
    from fusiondistill.data.pickles import read_pickle

    pixels = bytes(range(12))
    for order, fortran in ((b"\x89", "C"), (b"\x88", "F")):
        old = (
            b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00"
            b"\x85U\x01b\x87Rq\x05(K\x01K\x02K\x06\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + order + b"U\x0c" + pixels + b"tbU\x06labelsq\x08]q\x09"
            b"(K\x06K\x09eu."
        )
        expected = pickle.loads(old, encoding="bytes")
        found = read_pickle(old, "here")
        assert found["labels"] == [6, 9]
        assert np.array_equal(found["data"], expected[b"data"])
        assert np.array_equal(found["data"], np.frombuffer(pixels, np.uint8).reshape(2, 6, order=fortran))
    assert read_pickle(b"(dp1\nS'num_vis'\np2\nI3072\nsS'label_names'\np3\n(lp4\nS'cat'\np5\nas.", "here") == {
        "num_vis": 3072,
        "label_names": [b"cat"],
    }


@pytest.mark.parametrize("root", ["cifar-100-python", "."])
def test_cifar100_from_the_real_archive(root):
    folder = shared("cifar-100-python")
    names = pickle.loads((folder / "meta").read_bytes(), encoding="bytes")[b"fine_label_names"]
    for split in ("train", "test"):
        oracle = pickle.loads((folder / split).read_bytes(), encoding="bytes")
        images = load_images("cifar100", split, SHARED / root)
        assert np.array_equal(images.images.numpy(), oracle[b"data"].reshape(-1, 3, 32, 32))
        assert images.labels.tolist() == oracle[b"fine_labels"]
        assert images.classes == [name.decode() for name in names] and images.mean == (129.3, 124.1, 112.4)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """torchvision's CIFAR10 points at an archive served from this machine."""
    from torchvision.datasets import CIFAR10

    write_cifar10(tmp_path / "made" / "cifar-10-batches-py")
    (tmp_path / "made" / "cifar-10-batches-py" / "extra").write_text("not needed")
    (tmp_path / "www").mkdir()
    archive = tmp_path / "www" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "www"))

        def log_message(self, *arguments):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{served.server_port}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    yield served
    served.shutdown()
    served.server_close()


def test_cifar10_is_downloaded_once(server, tmp_path, cache, monkeypatch):
    from torchvision.datasets import CIFAR10

    images = load_images("cifar10", "train")
    assert len(images) == 15
    assert sorted(path.name for path in (cache / "downloads").rglob("*")) == sorted(
        ["cifar-10-batches-py", "batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))]
    )
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/nothing")
    assert load_images("cifar10", "train").fingerprint == images.fingerprint
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="could not be downloaded"):
        load_images("cifar10", "train", tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_download_with_a_wrong_checksum_is_refused(server, cache, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(DataError, match="could not be downloaded"):
        fingerprint("cifar10")
    assert list((cache / "downloads").iterdir()) == []


# --- Tiny ImageNet ----------------------------------------------------------------------------------------------------


def write_tiny(root: Path) -> Path:
    """Two classes, three training images each (one of them grey) and two validation images."""
    for wnid, seed in (("n02", 1), ("n01", 2)):
        (root / "train" / wnid / "images").mkdir(parents=True)
        for i, pixels in enumerate(random_images(3, 8, 8, seed)):
            pixels = pixels[..., 0] if i == 1 else pixels
            (root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG").write_bytes(encoded(pixels, "JPEG"))
    (root / "val" / "images").mkdir(parents=True)
    for i, pixels in enumerate(random_images(2, 8, 8, 3)):
        (root / "val" / "images" / f"val_{i}.JPEG").write_bytes(encoded(pixels, "JPEG"))
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tthing\nn01\tgoldfish, Carassius\nn02\tcrane\n")
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn01\t0\t0\t7\t7\nval_0.JPEG\tn02\t0\t0\t7\t7\n")
    return root


@pytest.mark.parametrize("form", ["folder", "parent", "zip", "parent of zip"])
def test_tiny_imagenet_in_every_form(form, tmp_path):
    folder = write_tiny(tmp_path / "there" / "tiny-imagenet-200")
    root = folder if form == "folder" else tmp_path / "there"
    if "zip" in form:
        shutil.make_archive(str(folder), "zip", tmp_path / "there", "tiny-imagenet-200")
        root = folder.with_suffix(".zip") if form == "zip" else folder.parent
    train, test = (load_images("tiny_imagenet", split, root) for split in ("train", "test"))
    names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ("n02", "n01") for i in range(3)]
    assert torch.equal(train.images, torch.stack([decoded((folder / name).read_bytes()) for name in names]))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.classes == ["crane", "goldfish, Carassius"]
    names = ["val/images/val_1.JPEG", "val/images/val_0.JPEG"]
    assert torch.equal(test.images, torch.stack([decoded((folder / name).read_bytes()) for name in names]))
    assert test.labels.tolist() == [1, 0]
    np.testing.assert_allclose(test.mean, np.array((0.485, 0.456, 0.406)) * 255)
    np.testing.assert_allclose(test.std, np.array((0.229, 0.224, 0.225)) * 255)


def test_tiny_imagenet_from_the_real_zip():
    path = shared("tiny-imagenet-200-subset.zip")
    train, test = (load_images("tiny_imagenet", split, path) for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (10_000, 2_000, 200)
    with zipfile.ZipFile(path) as archive:
        wnids = archive.read("tiny-imagenet-200/wnids.txt").decode().split()
        words = dict(line.split("\t") for line in archive.read("tiny-imagenet-200/words.txt").decode().splitlines())
        annotated = [
            line.split("\t")[:2]
            for line in archive.read("tiny-imagenet-200/val/val_annotations.txt").decode().splitlines()
        ]
        assert train.classes == [words[wnid] for wnid in wnids]
        assert test.labels.tolist() == [wnids.index(wnid) for _, wnid in annotated]
        for row in range(0, 2000, 40):
            data = archive.read(f"tiny-imagenet-200/val/images/{annotated[row][0]}")
            assert torch.equal(test.images[row], decoded(data))
        for label in range(0, 200, 9):
            stem = f"tiny-imagenet-200/train/{wnids[label]}/images/"
            names = sorted(name for name in archive.namelist() if name.startswith(stem) and name != stem)
            rows = (train.labels == label).nonzero().flatten()
            assert len(rows) == len(names) == 50
            assert torch.equal(train.images[rows[0]], decoded(archive.read(names[0])))
            assert torch.equal(train.images[rows[-1]], decoded(archive.read(names[-1])))
