"""Image sets, the registry and the cache; the sources have files of their own."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusiondistill.data import SOURCES, DataError, fingerprint, load_images
from fusiondistill.data.files import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "images")


def make_folder(root: Path, per_class: int = 6, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for name in ("cat", "dog", "emu"):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def decodes(monkeypatch):
    """The splits that were read from the `folder` source, one item each time."""
    seen = []
    source = SOURCES["folder"]

    def read(files, split):
        seen.append(split)
        return source.function(files, split)

    monkeypatch.setitem(SOURCES._builtin, "folder", dataclasses.replace(source, function=read))
    return seen


def entry_of(cache: Path, split: str = "train") -> Path:
    (entry,) = cache.glob(f"decoded/folder-{split}-*")
    return entry


# --- the registry -----------------------------------------------------------------------------------------------------


def test_importing_costs_torch_and_numpy_only():
    code = (
        "import sys, torch; before = set(sys.modules); import fusiondistill.data.loading; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"PIL", "pyarrow", "sklearn", "torchvision", "ray", "scipy", "pandas"} & set(loaded)


def test_the_names_are_the_documented_ones():
    assert set(SOURCES) == {"digits", "cifar10", "cifar100", "tiny_imagenet", "parquet", "folder", "table"}
    assert [name for name, source in SOURCES.items() if not source.flip] == ["digits"]


@pytest.mark.parametrize(
    "wrong, meant",
    [
        ("cifar-10", "'cifar10'?"),
        ("CIFAR100", "'cifar100'?"),
        ("digit", "'digits'"),
        ("tiny", "'tiny_imagenet'"),
        ("TinyImageNet", "'tiny_imagenet'"),
    ],
)
def test_a_misspelt_name_gets_a_match_and_the_list(wrong, meant):
    for call in (lambda: load_images(wrong, "train"), lambda: fingerprint(wrong)):
        with pytest.raises(DataError, match=r"did you mean.*Known: digits, cifar10, cifar100, ") as error:
            call()
        assert meant in str(error.value)


def test_a_misspelt_split_gets_the_list_and_a_hint():
    with pytest.raises(DataError, match=r"no split 'Test'; did you mean 'test'\?"):
        load_images("digits", "Test")
    with pytest.raises(DataError, match=r"Known: train, test\..*holdout"):
        load_images("digits", "validation")


# --- the fingerprint --------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_contents_whatever_the_path(root, tmp_path):
    first = fingerprint("folder", root=root)
    assert len(first) == 64
    shutil.copytree(root, tmp_path / "elsewhere")
    assert fingerprint("folder", root=str(tmp_path / "elsewhere")) == first
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "00.png")
    renamed = fingerprint("folder", root=root)
    (root / "train" / "cat" / "1.png").write_bytes((root / "train" / "cat" / "2.png").read_bytes())
    assert len({first, renamed, fingerprint("folder", root=root)}) == 3


def test_the_fingerprint_tells_splits_and_selections_apart(root):
    train, test = load_images("folder", "train", root), load_images("folder", "test", root)
    assert fingerprint("folder", "train", root) == train.fingerprint != test.fingerprint
    assert len({train.fingerprint, train.take(3).fingerprint, train.take(4).fingerprint}) == 3
    assert train.take(3).fingerprint == load_images("folder", "train", root).take(3).fingerprint


def test_the_fingerprint_is_remembered_until_a_file_is_touched(root, decodes, monkeypatch):
    first = fingerprint("folder", root=root)
    with monkeypatch.context() as context:
        context.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert fingerprint("folder", root=root) == first
    os.utime(root / "train" / "cat" / "0.png", ns=(1, 1))
    assert fingerprint("folder", root=root) == first  # read again: the same content
    assert decodes == []


def test_one_changed_digit_of_what_is_remembered_is_computed_again(root, cache):
    """Mean and std, which every image is normalised by; the fingerprint, which stages are known by; class names."""
    images = load_images("folder", "train", root)
    sound = (images.mean, images.std, images.classes, fingerprint("folder", root=root))
    memos = [*cache.glob("fingerprints/*.json"), entry_of(cache) / "statistics.json", entry_of(cache) / "entry.json"]
    assert len(memos) == 3
    for memo in memos:
        data = memo.read_bytes()
        places = [at for at, byte in enumerate(data) if chr(byte).isalnum()]
        for at in places[:: max(1, len(places) // 25)]:
            memo.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            again = load_images("folder", "train", root)
            assert (again.mean, again.std, again.classes, fingerprint("folder", root=root)) == sound, (memo.name, at)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_second_load_maps_what_the_first_one_decoded(root, cache, decodes):
    first = load_images("folder", "train", root)
    stamp = (entry_of(cache) / "images.npy").stat()
    second = load_images("folder", "train", root)
    assert decodes == ["train"]
    now = (entry_of(cache) / "images.npy").stat()
    assert (now.st_ino, now.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert np.array_equal(np.load(entry_of(cache) / "images.npy"), first.images.numpy())  # a plain .npy for others


def test_a_write_into_the_map_reaches_nobody_else(root, cache):
    images = load_images("folder", "train", root).images
    original = images.clone()
    before = hashlib.sha256((entry_of(cache) / "images.npy").read_bytes()).hexdigest()
    images.zero_()
    assert hashlib.sha256((entry_of(cache) / "images.npy").read_bytes()).hexdigest() == before
    assert torch.equal(load_images("folder", "train", root).images, original)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_reading_the_map_makes_no_private_copy(tmp_path):
    make_folder(tmp_path / "many", per_class=400)
    images = load_images("folder", "train", tmp_path / "many").images
    images.sum()
    resident, private, inside = 0, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        field, *value = line.split()
        if not field.endswith(":"):
            inside = line.endswith("images.npy")
        elif inside:
            resident += int(value[0]) if field == "Rss:" else 0
            private += int(value[0]) if field == "Anonymous:" else 0
    assert resident * 1024 >= images.numel() * 0.9 and private == 0


def truncate(entry):
    os.truncate(entry / "images.npy", 1000)


def flip_a_pixel(entry):
    with (entry / "images.npy").open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def damage_the_header(entry):
    with (entry / "images.npy").open("r+b") as file:
        file.seek(30)
        file.write(b"x")


DAMAGES = {
    "truncated": truncate,
    "one bit": flip_a_pixel,
    "header": damage_the_header,
    "labels": lambda entry: (entry / "labels.npy").write_bytes(b"\x93NUMPY"),
    "no images": lambda entry: (entry / "images.npy").unlink(),
    "json cut": lambda entry: (entry / "entry.json").write_text('{"format": 1,'),
    "json of another kind": lambda entry: (entry / "entry.json").write_text("[]"),
    "empty": lambda entry: [path.unlink() for path in entry.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_noticed_and_made_again(damage, root, cache, decodes, caplog):
    good = load_images("folder", "train", root)
    images, labels = good.images.clone(), good.labels.clone()
    damage(entry_of(cache))
    again = load_images("folder", "train", root)
    assert decodes == ["train", "train"] and "damaged" in caplog.text
    assert torch.equal(again.images, images) and torch.equal(again.labels, labels)
    load_images("folder", "train", root)
    assert len(decodes) == 2
    assert [path.name for path in cache.glob("decoded/*.tmp-*")] == []


def test_a_copied_or_read_only_cache_is_used_as_it_is(root, cache, decodes, tmp_path, monkeypatch):
    expected = load_images("folder", "train", root).images.clone()
    shutil.copytree(cache, tmp_path / "copy", copy_function=shutil.copyfile)  # new times, the same content
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "copy"))
    (tmp_path / "copy" / "locks").chmod(0o500)
    assert torch.equal(load_images("folder", "train", root).images, expected)
    assert decodes == ["train"]


def test_a_decoder_that_fails_leaves_nothing_behind(root, cache):
    (root / "train" / "emu" / "5.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"emu/5\.png"):
        load_images("folder", "train", root)
    assert list(cache.glob("decoded/*")) == []


def test_files_that_change_while_they_are_read_are_noticed(root, monkeypatch):
    source = SOURCES["folder"]

    def read(files, split):
        os.utime(files["train/cat/0.png"], ns=(5, 5))
        return source.function(files, split)

    monkeypatch.setitem(SOURCES._builtin, "folder", dataclasses.replace(source, function=read))
    with pytest.raises(DataError, match="changed while they were read"):
        load_images("folder", "train", root)


def test_a_full_or_forbidden_cache_is_named(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written.*FUSIONDISTILL_CACHE"):
        load_images("folder", "train", root)


def test_the_default_cache_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.delenv("FUSIONDISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fusiondistill"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "fusiondistill"


WORKER = """
import dataclasses, pathlib, sys, time
from fusiondistill.data import SOURCES, load_images
root, log, number = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
source = SOURCES["folder"]
def read(files, split):
    with log.open("a") as file:
        file.write("decoding\\n")
    time.sleep(0.5)
    return source.function(files, split)
SOURCES._builtin["folder"] = dataclasses.replace(source, function=read)
pathlib.Path(f"{log}.{number}").touch()
while len(list(log.parent.glob("log.*"))) < 2:
    time.sleep(0.005)
images = load_images("folder", "train", root)
print(images.fingerprint, int(images.images.long().sum()), int(images.labels.sum()))
"""


def test_two_processes_at_once_decode_once_and_agree(root, cache, tmp_path):
    log = tmp_path / "log"
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(root), str(log), number], text=True, stdout=subprocess.PIPE)
        for number in "12"
    ]
    said = {worker.communicate(timeout=60)[0] for worker in workers}
    images = load_images("folder", "train", root)
    expected = f"{images.fingerprint} {int(images.images.long().sum())} {int(images.labels.sum())}\n"
    assert said == {expected} and log.read_text().count("decoding") == 1
