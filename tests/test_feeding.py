"""Images that do not fit the memory: the same bits, read a block at a time, ahead of need."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Images
from fusiondistill import feeding, memory
from fusiondistill.bench_reading import bench_reading
from fusiondistill.data import ImageSet, cache
from fusiondistill.fitting import Training
from fusiondistill.memory import free_memory
from fusiondistill.recipe import Recipe
from toy_training import Toy, make_recipe

CPU = torch.device("cpu")
ONE = 3 * 8 * 8
"""Bytes of an image."""


class Watched(ImageSet):
    """Notes which rows of the file are gathered at a time."""

    def watch(self) -> Watched:
        self.asked: list[torch.Tensor] = []
        return self

    def gather(self, indices: Any) -> Any:
        rows = torch.as_tensor(indices)
        if getattr(self, "asked", None) is not None and len(rows) > 1:
            self.asked.append(rows if self.positions is None else self.positions[rows])
        return super().gather(indices)


def watched(images: ImageSet) -> Watched:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    return Watched(
        "watched", images.images, images._all_labels, images.classes, statistics=images._mean_std, positions=order
    ).watch()


@pytest.mark.parametrize("more", [{}, {"sampling": "balanced", "pairing": "same"}])
def test_weights_are_the_same_to_the_bit(tiny: Images, more: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "BLOCK", 20 * ONE)
    train, held_out = tiny(60).take(50).holdout(0.2, seed=0)
    recipe = Recipe.model_validate({**make_recipe(2).model_dump(), "batch_size": 7, **more})
    found = []
    for limit in (None, len(train) * ONE, len(train) * ONE - 1, 0):
        network = Toy(1)
        found.append(Training(recipe, train, held_out, ("noise", "jpeg"), limit=limit).run(network))
    for other in found[1:]:
        assert all(torch.equal(value, found[0].model[name]) for name, value in other.model.items())
        assert [{**row, "seconds": 0} for row in other.rows] == [{**row, "seconds": 0} for row in found[0].rows]


def test_blocks_are_read_in_the_order_of_the_file_and_no_more_than_needed(
    tiny: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "BLOCK", 20 * ONE)
    images = watched(tiny(90))
    wanted = [*torch.arange(90).split(9), torch.arange(30)]  # the last is larger than a block
    batches = feeding.fed(images, CPU, wanted, limit=0)
    for number, (indices, (pixels, labels)) in enumerate(zip(wanted, batches, strict=True)):
        assert torch.equal(pixels, ImageSet.gather(images, indices)[0])
        assert torch.equal(labels, images.labels[indices])
        assert len(images.asked) <= number // 2 + 1 + feeding.AHEAD
    assert [len(rows) for rows in images.asked] == [18] * 5 + [30]
    assert all(bool((rows.diff() > 0).all()) for rows in images.asked)


def test_an_epoch_that_is_left_leaves_no_thread_and_an_error_comes_through(
    tiny: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "BLOCK", 4 * ONE)
    before = threading.active_count()
    batches = feeding.fed(tiny(), CPU, torch.arange(37).split(4), limit=0)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    with pytest.raises(IndexError):
        list(feeding.fed(tiny(), CPU, torch.arange(50).split(4), limit=0))
    assert threading.active_count() == before


def test_the_rule_is_a_share_of_what_is_free(tiny: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny()
    assert feeding.bytes_of(images) == 37 * ONE
    for free, fits in ((2 * 37 * ONE, True), (2 * 37 * ONE - 1, False)):
        monkeypatch.setattr(feeding, "free_memory", lambda device, free=free: free)
        assert feeding.fits(images, CPU) is fits and (feeding.too_large(images) == "") is fits
    assert "tiny: the 37 training images take 0.0 GB, more than 50% of the memory" in feeding.too_large(images)


def test_free_memory_is_what_the_machine_and_the_control_groups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2**26 < free_memory(CPU) <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def says(**files: str) -> int:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_in", ".limit_in").replace("_max", ".max")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return free_memory(CPU)

    assert says(meminfo="MemTotal: 99 kB\nMemAvailable:   50 kB\n") == 51200
    assert says(self__cgroup="0::/a/b\n") == 51200
    assert says(groups__a__memory_max="40000\n", groups__a__b__memory_max="max\n") == 40000
    assert says(groups__a__b__memory_max="30000\n") == 30000
    assert says(self__cgroup="3:cpu,memory:/not/here\n0::/\n", groups__memory__memory_in_bytes="20000") == 20000


def test_a_map_may_be_larger_than_memory(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with (tmp_path / "images.npy").open("wb") as file:
        try:
            file.truncate(4 * total + cache.HEADER_BYTES)  # nothing but a hole
        except OSError:
            pytest.skip("no files of that size here")
    pixels = cache.mapped(tmp_path / "images.npy", (4 * total // (3 * 2**20), 3, 2**10, 2**10))
    images = ImageSet("large", torch.from_numpy(pixels), torch.zeros(len(pixels), dtype=torch.int64), ["a"])
    assert not feeding.fits(images, CPU) and not images.gather([len(images) - 1])[0].any()
    pixels[0, 0, 0, 0] = 5
    assert cache.mapped(tmp_path / "images.npy", (1, 3, 8, 8))[0, 0, 0, 0] == 0  # private


def test_rows_of_the_benchmark() -> None:
    said: list[dict[str, Any]] = []
    rows = bench_reading(size=16, gigabytes=0.0005, batch=8, batches=3, repeats=1, progress=said.append)
    assert said == rows and [row["name"] for row in rows] == ["16x16, 0.0005 GB in memory", "16x16, 0.0005 GB on disk"]
    assert all(row["ours"] > 0 and row["reference"] > 0 and row["ratio"] > 0 for row in rows)
