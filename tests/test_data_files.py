"""Images in Parquet files and in folders, made here and real ones, against pyarrow's and Pillow's own reading."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fusiondistill.data import load_images

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


# --- Parquet ----------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, images, labels, names=("cat", "dog"), columns=("img", "label"), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(cells, kind), columns[1]: pa.array(labels, pa.int64())})
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("columns", [("img", "label"), ("image", "labels"), ("picture", "kind")])
def test_parquet_in_several_shards(tmp_path, kind, columns):
    data = [encoded(pixels, kind) for pixels in random_images(7)]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", data[:4], [0, 1, 1, 0], columns=columns, row_group_size=3)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", data[4:6], [1, 1], columns=columns)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", data[6:], [1], columns=columns)
    train = load_images("parquet", "train", tmp_path)
    assert torch.equal(train.images, torch.stack([decoded(item) for item in data[:6]]))
    assert train.labels.tolist() == [0, 1, 1, 0, 1, 1] and train.classes == ["cat", "dog"]
    listed = load_images("parquet", "train", sorted(map(str, tmp_path.glob("*.parquet"))))
    assert listed.fingerprint == train.fingerprint
    flat = train.images.double().transpose(0, 1).reshape(3, -1)
    np.testing.assert_allclose(load_images("parquet", "test", tmp_path).mean, flat.mean(dim=1), rtol=1e-12)


def test_parquet_without_names_or_a_test_split(tmp_path):
    data = [encoded(pixels) for pixels in random_images(3)]
    write_parquet(tmp_path / "data" / "train.parquet", data[:2], [0, 1], names=None)
    write_parquet(tmp_path / "data" / "validation-0.parquet", data[2:], [3], names=None)
    train, test = (load_images("parquet", split, tmp_path) for split in ("train", "test"))
    assert train.classes == test.classes == ["0", "1", "2", "3"] and test.labels.tolist() == [3]
    assert torch.equal(test.images[0], decoded(data[2]))


@pytest.mark.parametrize(
    "name, split, step",
    [("cifar10-lossless", "train", 1), ("cifar10-lossless", "test", 1), ("cifar10-jpeg", "test", 25)],
)
def test_parquet_of_real_images(name, split, step):
    root = shared(name)
    table = pq.read_table(next(root.glob(f"{split}-*.parquet")))
    images = load_images("parquet", split, root)
    assert images.labels.tolist() == table.column("label").to_pylist() and len(images.classes) == 10
    for row in range(0, len(images), step):
        assert torch.equal(images.images[row], decoded(table.column("img")[row]["bytes"].as_py()))


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_folder_per_class(tmp_path, test_name):
    pixels = random_images(6)
    places = [
        "train/b/1.png",
        "train/b/2.PNG",
        "train/a/x.jpg",
        "train/a/y.bmp",
        f"{test_name}/b/1.jpeg",
        f"{test_name}/b/0.webp",
    ]
    for place, image in zip(places, pixels, strict=True):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG"}.get(place[-3:].lower(), place.split(".")[-1].upper())
        (tmp_path / place).write_bytes(encoded(image, kind))
    (tmp_path / "train" / "a" / "notes.txt").write_text("left out")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("left out")
    for split, order, labels in (("train", [2, 3, 0, 1], [0, 0, 1, 1]), ("test", [5, 4], [1, 1])):
        images = load_images("folder", split, tmp_path)
        expected = [decoded((tmp_path / places[i]).read_bytes()) for i in order]
        assert torch.equal(images.images, torch.stack(expected))
        assert images.labels.tolist() == labels and images.classes == ["a", "b"]
