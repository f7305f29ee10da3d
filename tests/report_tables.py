"""Tables for the report's tests, and a strict reader of its page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image

LEVELS = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
FEW = {"jpeg": (1, 50, 101), "blur": (0, 25), "noise": (0, 25, 50), "saltpepper": (0, 25)}
METHODS = [
    "fusing", "expert-blur", "expert-jpeg", "expert-noise", "expert-saltpepper", "fusiondistill-searched", "base",
    "ensemble", "modelsoups", "scratch", "vanilla", "fusiondistill", "modelsoups-told", "oracle",
]  # fmt: skip
COLUMNS = ["experiment", "method", "model", "seed", "dataset", "protocol", "degradation", "level", "right", "seen"]
T = TypeVar("T")
Written = tuple[Path, list[Path]]
HOSTILE = "<script>alert('x')</script> & \"$a$b$\" | `c` \x1b[31m\n\ud800../../étoile"


def rows_of(
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    levels: Mapping[str, Sequence[int]] = FEW,
    images: int = 40,
    **names: str,
) -> list[dict[str, Any]]:
    """Random counts, one row each; the accuracy falls with the level so that lines look like lines."""
    given = {"experiment": "demo", "model": "cifar_resnet8", "dataset": "digits", "protocol": "standard", **names}
    rng = np.random.default_rng(0)
    return [
        {**given, "method": m, "seed": s, "degradation": d, "level": level, "seen": images,
         "right": int(rng.binomial(images, 0.9 - 0.5 * i / len(of)))}
        for m in methods for s in seeds for d, of in levels.items() for i, level in enumerate(of)
    ]  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in COLUMNS})


NINETEEN = (
    "brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost", "gaussian_blur", "gaussian_noise",
    "glass_blur", "impulse_noise", "jpeg_compression", "motion_blur", "pixelate", "saturate", "shot_noise", "snow",
    "spatter", "speckle_noise", "zoom_blur",
)  # fmt: skip


def corrupted(**names: str) -> pa.Table:
    """The four degradations, and the nineteen corruptions of a published set."""
    rows = [{**row, "kind": "trained"} for row in rows_of(**names)]
    given = {f"c-{name}": range(1, 6) for name in NINETEEN}
    rows += [{**row, "kind": "corruption"} for row in rows_of(["base", "vanilla", "fusiondistill"], levels=given)]
    return pa.Table.from_pylist(rows)


def chain_of(lengths: Sequence[float]) -> pa.Table:
    """Stages one after the other, each ready when the one before is finished and 1 s later on its way."""
    rows, now = [], 0.0
    for i, length in enumerate(lengths):
        rows.append(
            {"experiment": "demo", "stage": f"s{i}", "name": f"s{i}", "kind": "train", "seed": 0, "worker": "w",
             "host": "a", "device": "CPU", "ready": now or None, "started": now + 1, "finished": now + 1 + length,
             "seconds": length}
        )  # fmt: skip
        now += 1 + length
    return pa.Table.from_pylist(rows)


def curves_of(
    stages: Sequence[str] = ("base", "expert-jpeg", "fusiondistill"), seeds: Sequence[int] = (0, 1)
) -> pa.Table:
    rows = [
        (stage, seed, epoch, name, (0.9 if name == "accuracy" else 2.0) / epoch)
        for stage in stages for seed in seeds for epoch in range(1, 5) for name in ("loss", "accuracy")
    ]  # fmt: skip
    rows.append((stages[0], seeds[0], 5, "loss", math.nan))
    return pa.table(dict(zip(("stage", "seed", "epoch", "name", "value"), zip(*rows, strict=True), strict=True)))


def trials_of(name: str = "t", count: int = 4) -> pa.Table:
    return pa.table(
        {
            "trial": [f"{name}{i}" for i in range(count)],
            "ce": [10.0 ** -(i % 4) for i in range(count)],
            "feature": [0.5 * i for i in range(count)],
            "kd": [1.0, None, *([2.0] * (count - 2))],
            "temperature": [1.0 + i for i in range(count)],
            "epochs": [2] * count,
            "validation": [0.512, 0.9, 0.734, *([0.5] * (count - 3))],
            "stopped": [False, True, *([False] * (count - 2))],
            "seed": [0] * count,
        }
    )


def fusion_of(name: str = "jpeg") -> pa.Table:
    columns = {"stage": ["fuse"] * 2, "seed": [0, 1], "degradation": [name] * 2}
    return pa.table({**columns, "distance": [0.1, 0.3], "barrier": [None, 0.25]})


def png(seed: int, side: int = 8) -> bytes:
    """A small picture."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


# Image -> whether the base and the final network are right about it at the hardest level.
CASES = {3: (False, False), 5: (True, True), 6: (True, True), 8: (True, False), 9: (False, True)}


def samples_of(label: str = "cat", experiment: str = "demo") -> pa.Table:
    rows = [
        {"experiment": experiment, "degradation": d, "level": level, "index": i, "label": label, "image": png(i)}
        for d in ("jpeg", "blur") for level in (0, 25, 50) for i in CASES
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def answers_of(label: str = "cat", wrong: str = "dog", experiment: str = "demo") -> pa.Table:
    """The expert is always right; where a degradation is not at its hardest, so are all."""
    rows = []
    for d, hardest in (("jpeg", 0), ("blur", 50)):
        for level in (0, 25, 50):
            for i, (base, final) in CASES.items():
                right = {"base": base, "fusiondistill": final, f"expert-{d}": True}
                rows += [
                    {"experiment": experiment, "degradation": d, "level": level, "index": i, "method": method,
                     "said": label if level != hardest or is_right else wrong}
                    for method, is_right in right.items()
                ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def timeline_of(name: str = "base", experiment: str = "demo", start: float = 1e9) -> pa.Table:
    """Two workers: base, then an expert on each (the second waits 5 s for nothing better), the fusion, a pause, a test.

    name, kind, worker, ready, started, finished; seconds after the start.
    """
    rows: list[tuple[str, str, str, float | None, float, float]] = [
        (name, "train", "group1/0 (process 12) on a", None, 0, 100),
        ("expert-jpeg", "train", "group1/0 (process 12) on a", 100, 100, 160),
        ("expert-blur", "train", "group1/1 (process 13) on a", 100, 105, 175),
        ("fused", "fuse", "group1/1 (process 13) on a", 175, 175, 185),
        ("evaluate-fused-blur", "evaluate", "group1/0 (process 77) on a", 185, 3785, 3800),
    ]
    return pa.Table.from_pylist(
        [
            {"experiment": experiment, "stage": f"{named}-0123", "name": named, "kind": kind, "seed": 0,
             "worker": worker, "host": "a", "device": "CPU", "ready": None if ready is None else start + ready,
             "started": start + begin, "finished": start + end, "seconds": float(end - begin)}
            for named, kind, worker, ready, begin, end in rows
        ]
    )  # fmt: skip


def surface_of(expert: str = "jpeg", experiment: str = "demo") -> pa.Table:
    rows = [
        {"experiment": experiment, "stage": "fused", "seed": seed, "degradation": e, "alpha": a / 4,
         "loss": 1 + a * (4 - a) / 8}
        for seed in (0, 1) for e in (expert, "blur") for a in range(5)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def classes_of(
    label: str = "cat",
    wrong: str = "dog",
    experiment: str = "demo",
    methods: Sequence[str] = METHODS,
    levels: Mapping[str, Sequence[int]] = FEW,
) -> dict[str, pa.Table]:
    """Counts, confusions and mistakes of two classes of 20 images, for what :func:`rows_of` has, and what rows cost."""
    of_all = [(m, s, d, level) for m in methods for s in range(3) for d, of in levels.items() for level in of]
    places = [{"experiment": experiment, "method": m, "seed": s, "degradation": d, "level": n} for m, s, d, n in of_all]
    counts = [{**one, "class": c, "right": 14, "seen": 20, "said": 20} for one in places for c in (label, wrong)]
    pairs = [(label, label, 14), (label, wrong, 6), (wrong, wrong, 14), (wrong, label, 6)]
    confused = [{**one, "label": a, "said": b, "count": n} for one in places for a, b, n in pairs]
    shots = [
        {**one, "index": i, "label": label, "said": wrong, "confidence": 0.9 - i / 10, "image": png(i)}
        for one in places if not one["seed"] for i in range(3)
    ]  # fmt: skip
    costs = [
        {"experiment": experiment, "method": m, "seed": s, "parameters": 78_042, "passes": 1, "own_images": 10**9,
         "all_images": 4 * 10**9 + s} for m in methods for s in range(3)
    ]  # fmt: skip
    named = {"classes": counts, "confusions": confused, "mistakes": shots, "costs": costs}
    return {name: pa.Table.from_pylist(rows) for name, rows in named.items()}


def all_tables() -> dict[str, Any]:
    """One table of each kind for :func:`fusiondistill.report.write`."""
    return {
        "curves": curves_of(), "trials": trials_of(), "fusion": fusion_of(), "samples": samples_of(),
        "answers": answers_of(), "timeline": timeline_of(), "surface": surface_of(), **classes_of(),
    }  # fmt: skip


def known(value: T | None) -> T:
    """The value, which must be there."""
    assert value is not None
    return value


class Page(HTMLParser):
    """A strict reader: every element closed in order; collects what a test asks about."""

    VOID = frozenset({"meta", "br", "wbr", "link", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.rows: list[list[str]] = []
        self.text: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        inner = self.open[-1] if self.open else ""
        self.text[inner] = self.text.get(inner, "") + data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += f" {data}" if self.rows[-1][-1] else data
