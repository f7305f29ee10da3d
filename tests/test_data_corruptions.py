"""Corruption sets in the published layout, and files that only look like one."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fusiondistill.data import DataError
from fusiondistill.data.corruptions import (
    SEVERITIES,
    check_corruptions,
    corruption_digest,
    corruption_names,
    load_corruption,
)

N = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5 * N, 32, 32, 3), dtype=np.uint8)
LABELS = np.tile(np.arange(N) % 10, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "CIFAR-10-C"
    place.mkdir()
    np.save(place / "gaussian_noise.npy", PIXELS[0])
    np.save(place / "fog.npy", PIXELS[1])
    np.save(place / "labels.npy", LABELS)
    (place / "README.txt").write_text("as downloaded")
    return place


@pytest.mark.parametrize("labels", [LABELS, LABELS[:N], LABELS.astype(np.uint8), LABELS.astype(">i4")])
def test_every_severity_is_its_fifth_of_the_file(folder: Path, labels: np.ndarray) -> None:
    np.save(folder / "labels.npy", labels)
    check_corruptions(folder, 10)
    assert corruption_names(folder) == ("fog", "gaussian_noise")
    for file, name in enumerate(("gaussian_noise", "fog")):
        for severity in SEVERITIES:
            images, answers = load_corruption(str(folder), name, severity, 10)
            expected = PIXELS[file, (severity - 1) * N : severity * N]
            assert images.dtype == torch.uint8 and images.shape == (N, 3, 32, 32)
            assert np.array_equal(images.numpy(), expected.transpose(0, 3, 1, 2))
            assert answers.dtype == torch.int64 and answers.tolist() == LABELS[:N].tolist()


def test_a_write_into_the_pixels_stays_in_this_process(folder: Path) -> None:
    images, _ = load_corruption(folder, "fog", 1, 10)
    images.zero_()
    assert np.array_equal(np.load(folder / "fog.npy"), PIXELS[1])


def test_arrays_in_fortran_order_are_read_as_well(folder: Path) -> None:
    np.save(folder / "fog.npy", np.asfortranarray(PIXELS[1]))
    images, _ = load_corruption(folder, "fog", 2, 10)
    assert np.array_equal(images.numpy(), PIXELS[1, N : 2 * N].transpose(0, 3, 1, 2))


def test_the_digest_follows_the_content_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    first = corruption_digest(folder, "fog")
    assert len(first) == 64 and first != corruption_digest(folder, "gaussian_noise")
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)
    assert corruption_digest(copied, "fog") == first
    np.save(copied / "labels.npy", (LABELS + 1) % 10)
    assert corruption_digest(copied, "fog") != first
    changed = PIXELS[1].copy()
    changed[0, 0, 0, 0] ^= 1
    np.save(folder / "fog.npy", changed)
    os.utime(folder / "fog.npy", ns=(1, 1))
    assert corruption_digest(folder, "fog") != first


def test_untouched_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = corruption_digest(folder, "fog")
    status = (folder / "fog.npy").stat()
    (folder / "fog.npy").write_bytes(b"x" * status.st_size)  # same size, and below the same time
    os.utime(folder / "fog.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert corruption_digest(folder, "fog") == first


def npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("arr_0.npy", npy(PIXELS[1]))
    return file.getvalue()


class Trap:
    """Unpickling it leaves a trace."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("sprung",)


def announcing(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + b"\0" * 1000


FILES = {
    "floats": (npy(PIXELS[1].astype(np.float32)), r"fog\.npy: holds float32 \[200, 32, 32, 3\], expected uint8"),
    "channels first": (npy(PIXELS[1].transpose(0, 3, 1, 2)), r"\[200, 3, 32, 32\]"),
    "grey": (npy(PIXELS[1][..., 0]), r"\[200, 32, 32\]"),
    "not fifths": (npy(PIXELS[1][:-1]), r"\[199, 32, 32, 3\]"),
    "fewer": (npy(PIXELS[1][: 5 * 8]), r"labels\.npy: holds int64 \[200\], expected integers \[40\] \(or \[8\]\)"),
    "none": (npy(PIXELS[1][:0]), r"fog\.npy: "),
    "cut": (npy(PIXELS[1])[:-1], r"fog\.npy: .*cut short"),
    "cut in its header": (npy(PIXELS[1])[:50], r"fog\.npy: .*cut short"),
    "huge": (announcing((5 * 10**13, 32, 32, 3)), r"fog\.npy: .*cut short"),
    "beyond all numbers": (announcing((5 * 10**30, 32, 32, 3)), r"fog\.npy: .*cut short"),
    "longer": (npy(PIXELS[1]) + b"\0", r"fog\.npy: has 614,529 bytes, its header announces 614,528"),
    "empty": (b"", r"fog\.npy: is no plain \.npy file"),
    "text": (b"<html>404</html>" * 50, r"fog\.npy: is no plain \.npy file"),
    "objects": (npy(np.array([Trap()], dtype=object)), r"fog\.npy: is no plain \.npy file"),
    "a pickle": (pickle.dumps(Trap()), r"fog\.npy: is no plain \.npy file"),
    "an archive": (archive(), r"fog\.npy: is no plain \.npy file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_wrong_with_a_file_is_said(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    content, message = FILES[kind]
    (folder / "fog.npy").write_bytes(content)
    for look in (lambda: check_corruptions(folder, 10), lambda: load_corruption(folder, "fog", 3, 10)):
        with pytest.raises(DataError, match=message):
            look()
    assert not (folder / "sprung").exists()
    assert len(load_corruption(folder, "gaussian_noise", 1, 10)[0]) == N  # the others can be had all the same


ANSWERS = {
    "too large": (np.where(np.arange(5 * N) % N == 7, 10, LABELS), "row 7 is 10, expected 0 to 9"),
    "negative": (np.where(np.arange(5 * N) % N == 3, -1, LABELS), "row 3 is -1"),
    "floats": (LABELS.astype(float), r"holds float64 \[200\], expected integers"),
    "one hot": (np.eye(10, dtype=int)[LABELS], r"holds int64 \[200, 10\]"),
    "of another set": (LABELS[:-1], r"holds int64 \[199\], expected integers \[200\] \(or \[40\]\)"),
    "not repeated": (np.where(np.arange(5 * N) == 2 * N + 1, 9, LABELS), "severity 3 has other labels"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_wrong_with_the_labels_is_said(folder: Path, kind: str) -> None:
    labels, message = ANSWERS[kind]
    np.save(folder / "labels.npy", labels)
    with pytest.raises(DataError, match=r"labels\.npy: .*" + message):
        check_corruptions(folder, 10)


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'fog'"):
        load_corruption(folder, "fogg", 1, 10)
    with pytest.raises(DataError, match=r"no corruption '\.\./labels'"):
        corruption_digest(folder, "../labels")
    with pytest.raises(DataError, match="severities are 1 to 5, not 6"):
        load_corruption(folder, "fog", 6, 10)
    (folder / "labels.npy").unlink()
    for look in (
        lambda: check_corruptions(folder, 10),
        lambda: load_corruption(folder, "fog", 1, 10),
        lambda: corruption_digest(folder, "fog"),
    ):
        with pytest.raises(DataError, match=r"labels\.npy: (is missing|cannot be read)"):
            look()
    with pytest.raises(DataError, match="nowhere: cannot be read as a folder"):
        check_corruptions(tmp_path / "nowhere", 10)
    (tmp_path / "bare").mkdir()
    np.save(tmp_path / "bare" / "labels.npy", LABELS)
    with pytest.raises(DataError, match="bare: holds no corruption"):
        check_corruptions(tmp_path / "bare", 10)
