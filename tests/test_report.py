"""The report: its numbers against plain loops, its page against a parser, its pictures against Pillow."""

import math
import re
import shutil
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fusiondistill import report
from fusiondistill.report.drawing import spread
from fusiondistill.report.markup import element
from fusiondistill.report.published import AVERAGE
from fusiondistill.report.words import MISSING

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


def fusion_of(name: str = "expert-jpeg") -> pa.Table:
    columns = {"stage": ["fuse"] * 2, "seed": [0, 1], "expert": [name] * 2}
    return pa.table({**columns, "distance": [0.1, 0.3], "barrier": [None, 0.25]})


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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("report")
    paths = report.write(
        directory, table(rows_of()), curves=curves_of(), trials=trials_of(), fusion=fusion_of(),
        facts={"command": "fusiondistill run demo.yaml", "config": "name: demo\nseeds: [0, 1]"},
    )  # fmt: skip
    return directory, paths


def expected(rows: list[dict[str, Any]], method: str, degradation: str, seed: int) -> float:
    """A cell in percent by a plain loop."""
    wanted = (method, degradation, seed)
    found = [r["right"] / r["seen"] for r in rows if (r["method"], r["degradation"], r["seed"]) == wanted]
    return 100 * sum(found) / len(found)


def test_every_number_of_the_table_is_what_plain_loops_give() -> None:
    rows = rows_of()
    (group,) = report.summarise(table(rows))
    assert len(group.rows) == len(METHODS)
    for row in group.rows:
        by_seed = [[expected(rows, row.method, d, s) for d in FEW] for s in range(3)]
        for i, name in enumerate(FEW):
            values = [of_seed[i] for of_seed in by_seed]
            interval = known(row.cells[name].interval)
            assert interval.mean == pytest.approx(statistics.mean(values))
            assert interval.half == pytest.approx(4.302652729911275 * statistics.stdev(values) / math.sqrt(3))
        averages = [sum(of_seed) / 4 for of_seed in by_seed]
        assert known(row.average.interval).mean == pytest.approx(statistics.mean(averages))
        assert known(row.average.interval).half == pytest.approx(
            4.302652729911275 * statistics.stdev(averages) / math.sqrt(3)
        )


def test_rows_and_columns_come_in_the_papers_order() -> None:
    (group,) = report.summarise(table(rows_of([*METHODS, "mine"])[::-1]))
    assert [row.method for row in group.rows] == [
        "base", "oracle", "ensemble", "scratch", "vanilla", "modelsoups", "modelsoups-told", "fusing", "fusiondistill",
        "fusiondistill-searched", "mine", "expert-jpeg", "expert-blur", "expert-noise", "expert-saltpepper",
    ]  # fmt: skip
    assert group.degradations == ("jpeg", "blur", "noise", "saltpepper")
    assert group.levels["jpeg"] == (1, 50, 101)
    assert group.seeds == (0, 1, 2)


def test_shards_add_up() -> None:
    rows = rows_of(["base"])
    halves = [
        {**r, "right": part(r["right"]), "seen": 20} for r in rows for part in (lambda n: n // 2, lambda n: n - n // 2)
    ]
    assert report.summarise(table(halves)) == report.summarise(table(rows))


@pytest.mark.parametrize(
    "lost",
    [
        lambda r: (r["method"], r["seed"], r["degradation"], r["level"]) == ("fusing", 1, "jpeg", 50),
        lambda r: (r["method"], r["seed"], r["degradation"]) == ("fusing", 1, "jpeg"),
    ],
)
def test_a_cell_counts_only_the_seeds_that_are_complete(lost: Callable[[dict[str, Any]], bool]) -> None:
    rows = [row for row in rows_of() if not lost(row)]
    (group,) = report.summarise(table(rows))
    row = known(group.row("fusing"))
    assert sorted(row.cells["jpeg"].by_seed) == [0, 2]
    assert sorted(row.cells["blur"].by_seed) == [0, 1, 2]
    assert sorted(row.average.by_seed) == [0, 2]
    line = next(line for line in report.table_lines(table(rows)) if line.startswith("Fusing"))
    assert re.search(r"^Fusing +\d+\.\d ±\d+\.\d \[2\] +\d+\.\d ±\d+\.\d +", line)


def test_images_still_missing_make_a_cell_missing_and_null_is_not_evaluated() -> None:
    rows = rows_of(["base", "fusing"], seeds=(0,))
    rows[-1] = {**rows[-1], "right": 3, "seen": 20}  # a shard of 20 of the 40 images is all there is
    rows[0] = {**rows[0], "right": None, "seen": None}
    (group,) = report.summarise(table(rows))
    assert known(group.row("fusing")).cells["saltpepper"].interval is None
    assert known(group.row("base")).cells["jpeg"].interval is None
    assert known(group.row("base")).average.interval is None
    assert known(group.row("base")).cells["blur"].interval is not None


def test_what_was_promised_but_not_evaluated_is_shown_as_missing(tmp_path: Path) -> None:
    results = table(rows_of(["base"], levels={"blur": (0, 25)}))
    asked: Any = {"methods": ["base", "fusiondistill"], "degradations": list(LEVELS)}
    lines = report.table_lines(results, **asked)
    assert next(line for line in lines if line.startswith("FusionDistill")).split() == ["FusionDistill", *[MISSING] * 5]
    base = next(line for line in lines if line.startswith("Base")).split()
    assert base[0:2] == ["Base", MISSING] and base[-1] == MISSING and base[2] != MISSING
    page = Page(report.write(tmp_path, results, **asked)[0].read_text())
    assert ["FusionDistill", *[MISSING] * 5] in page.rows
    assert [p.name for p in (tmp_path / "figures").glob("*.svg")] == ["accuracy-blur.svg"]


def test_nothing_evaluated_yet_is_a_page_too(tmp_path: Path) -> None:
    empty = table([])
    page = Page(report.write(tmp_path, empty, trials=trials_of().slice(0, 0))[0].read_text())
    assert "Nothing is evaluated yet." in page.text["p"]
    assert report.table_lines(empty) == ["Nothing is evaluated yet."]
    assert report.summarise(empty) == []


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match=r"no column level; they have experiment"):
        report.summarise(table(rows_of(["base"])).drop_columns(["level"]))


def test_terminal_table_is_aligned_and_fits() -> None:
    lines = report.table_lines(table(rows_of()))
    start = next(i for i, line in enumerate(lines) if "JPEG  " in line)
    body = lines[start : start + len(METHODS) + 1]
    starts = [[m.start() for m in re.finditer(r"±\d+\.\d", line)] for line in body[1:]]
    assert all(len(start) == 5 and start == starts[0] for start in starts)
    assert max(map(len, lines)) <= 100
    assert "n = 3 seeds" in " ".join(lines) and "images per level: 40" in " ".join(lines)


@pytest.mark.parametrize("dataset", ["cifar100", "tiny_imagenet"])
def test_published_figures_are_transcribed_right(dataset: str) -> None:
    # Each printed average is the mean of its cells to rounding, but for one row that METHOD.md names.
    for method in ("oracle", "ensemble", "scratch", "vanilla", "modelsoups", "fusing", "fusiondistill"):
        mean = sum(known(report.published(dataset, method, name)) for name in LEVELS) / 4
        wrong = (dataset, method) == ("tiny_imagenet", "ensemble")
        assert (abs(mean - known(report.published(dataset, method, AVERAGE))) > 0.1) == wrong


def test_published_knows_what_the_paper_does_not_have() -> None:
    assert report.published("cifar100", "fusiondistill", "saltpepper") == 73.7
    assert report.published("tiny_imagenet", "vanilla", AVERAGE) == 54.9
    assert report.published("cifar100", "base", "jpeg") is None
    assert report.published("cifar10", "oracle", "jpeg") is None
    assert report.published("cifar100", "oracle", "fog") is None
    assert report.published("cifar100", "fusiondistill-searched", "jpeg") is None


def test_differences_from_published_only_for_their_network_and_protocol(tmp_path: Path) -> None:
    def lines(model: str, protocol: str) -> tuple[str, str]:
        found = report.table_lines(table(rows_of(["vanilla"], dataset="cifar100", model=model, protocol=protocol)))
        return next(line for line in found if "published, ResNet-56" in line), " ".join(found)

    line, text = lines(model="cifar_resnet56", protocol="paper")
    (group,) = report.summarise(table(rows_of(["vanilla"], dataset="cifar100")))
    gap = known(known(group.row("vanilla")).cells["jpeg"].interval).mean - 62.2
    assert f"62.2 ({gap:+.1f})" in line and "ours minus theirs" in text
    line, text = lines(model="cifar_resnet20", protocol="paper")
    assert line.split()[2:] == ["62.2", "56.0", "63.8", "70.2", "63.1"] and "network cifar_resnet20" in text
    line, text = lines(model="cifar_resnet56", protocol="standard")
    assert "(" not in line and "protocol standard" in text
    assert "published" not in " ".join(report.table_lines(table(rows_of(["vanilla"]))))


def test_files_are_there_and_pictures_are_not_blank(written: Written) -> None:
    directory, paths = written
    assert paths[0] == directory / "index.html" and paths[1] == directory / "table.md"
    assert sorted(p for p in directory.rglob("*") if p.is_file()) == sorted(paths), "litter or a file not returned"
    names = {p.stem for p in paths if p.suffix == ".png"}
    assert names == {*(f"accuracy-{d}" for d in LEVELS), "experts", "search", "training-loss", "training-accuracy"}
    for path in paths:
        if path.suffix == ".png":
            picture = Image.open(path).convert("P")
            assert min(picture.size) > 250 and len(set(picture.tobytes())) > 10
            assert 0.005 < (np.asarray(picture.convert("L")) < 200).mean() < 0.7, path.name
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_bytes()).tag.endswith("svg")


def test_page_is_well_formed_self_contained_and_complete(written: Written) -> None:
    _, paths = written
    text = paths[0].read_text()
    page = Page(text)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    links = [
        known(v)
        for tag, name, v in page.attributes
        if name in ("src", "href", "xlink:href", "data", "action", "srcset")
    ]
    ids = [v for tag, name, v in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "ids twice"
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == len([p for p in paths if p.suffix == ".svg"])
    assert not re.search(r"(stroke|fill): #(1b1f24|0072b2|fffffe)", text), "a colour that cannot follow light and dark"
    for heading in ("Training", "Search", "Fusion", "What the rows are", "Protocol", "How it was run"):
        assert heading in page.text["h2"]
    assert "name: demo\nseeds: [0, 1]" in page.text["pre"]
    assert "n = 3 seeds" in page.text["p"] and "40 test images per level" in page.text["figcaption"]
    (group,) = report.summarise(table(rows_of()))
    for row in group.rows:
        cells = next(r for r in page.rows if r[0].startswith(report.text.method_title(row.method)) and len(r) == 6)
        for column, cell in zip(group.columns, cells[1:], strict=True):
            interval = known(row.cell(column).interval)
            assert cell == f"{interval.mean:.1f} ±{interval.half:.1f}"


def test_markdown_has_the_same_numbers(written: Written) -> None:
    _, paths = written
    text = paths[1].read_text()
    (group,) = report.summarise(table(rows_of()))
    interval = known(known(group.row("fusiondistill")).average.interval)
    line = next(line for line in text.splitlines() if line.startswith("| FusionDistill |"))
    assert line.split(" | ")[-1] == f"{interval.mean:.1f} ±{interval.half:.1f} |"
    counts = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert counts == {7}


def test_search_and_fusion_tables(written: Written) -> None:
    page = Page(written[1][0].read_text())
    trials = [row for row in page.rows if row[0].startswith("t") and len(row) == 9]
    assert [row[0] for row in trials] == ["trial", "t2", "t0", "t3", "t1"], "finished first, the best on top"
    assert trials[1][-2] == "73.4" and trials[-1][4] == MISSING and trials[-1][-1] == "yes"
    (fused,) = [row for row in page.rows if row[0] == "fuse"]
    assert fused[:4] == ["fuse", "expert-jpeg", "2", f"0.200 ±{12.7062047 * 0.1:.3f}"] and fused[4] == "0.250"


def test_protocols_are_explained_with_their_leaks(tmp_path: Path) -> None:
    protocols = ("paper", "standard", "mine")
    results = table([row for name in protocols for row in rows_of(["base", "fusing"], protocol=name)])
    page = Page(report.write(tmp_path, results)[0].read_text())
    said = page.text["li"]
    for words in ("best on the test split", "as the value 1", "BatchNorm statistics", "validation split is held out"):
        assert words in said, words
    assert "knows nothing about" in said
    assert page.tags.count("table") == 3
    assert len(set((tmp_path / "figures").glob("*accuracy-jpeg.svg"))) == 3


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = rows_of([HOSTILE, f"expert-{HOSTILE}", "base"], experiment=HOSTILE, dataset=HOSTILE, model=HOSTILE,
                   protocol=HOSTILE, levels={HOSTILE: (0, 1), "blur": (0, 1)})  # fmt: skip
    # Arrow itself holds no lone surrogate.
    results = table([{k: v.replace("\ud800", "") if isinstance(v, str) else v for k, v in row.items()} for row in rows])
    named = HOSTILE.replace("\ud800", "")
    given = {
        "curves": curves_of((named, "base")),
        "trials": trials_of(named).rename_columns(["trial", named, *trials_of().column_names[2:]]),
        "fusion": fusion_of(named),
    }
    paths = report.write(tmp_path / "r", results, **given, facts={HOSTILE: HOSTILE}, methods=[HOSTILE])
    text = paths[0].read_text()
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text and "\x1b" not in text
    assert named.split(" \x1b")[0] in page.text["dd"] + page.text["pre"]
    assert all(path.parent in (tmp_path / "r", tmp_path / "r" / "figures") for path in paths)
    assert "<script" not in paths[1].read_text() and "\x1b" not in paths[1].read_text()
    for path in paths:
        if path.suffix == ".svg":
            assert "script" not in {e.tag.rpartition("}")[2] for e in ET.fromstring(path.read_bytes()).iter()}
    lines = report.table_lines(results)
    assert all(line.isprintable() for line in lines)


def test_elements_escape_text_and_attributes_but_not_markup() -> None:
    inner = element("b", "1 < 2", class_=None)
    assert inner == "<b>1 &lt; 2</b>"
    assert element("a", inner, "&", href='"x>\0', aria_label="y") == (
        '<a href="&quot;x&gt;\N{REPLACEMENT CHARACTER}" aria-label="y"><b>1 &lt; 2</b>&amp;</a>'
    )


def test_many_trials_fold_away(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path, table([]), trials=trials_of(count=30))[0].read_text())
    assert "All 30 rows" in page.text["summary"]


def test_same_tables_same_bytes(written: Written, tmp_path: Path) -> None:
    directory, paths = written
    again = report.write(
        tmp_path, table(rows_of()), curves=curves_of(), trials=trials_of(), fusion=fusion_of(),
        facts={"command": "fusiondistill run demo.yaml", "config": "name: demo\nseeds: [0, 1]"},
    )  # fmt: skip
    for old, new in zip(paths, again, strict=True):
        assert old.relative_to(directory) == new.relative_to(tmp_path)
        assert old.read_bytes() == new.read_bytes(), new.name


def test_a_failed_write_leaves_the_old_report_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = table(rows_of(["base"], levels={"blur": (0, 1)}))
    before = {path: path.read_bytes() for path in report.write(tmp_path, results)}

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path, table(rows_of(["base", "fusing"], levels={"blur": (0, 1)})))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_labels_are_spread_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = list(rng.choice([10.0, 50.0, 90.0], 6) + rng.normal(0, 2, 6))
        places = spread(wanted, 5.0, 0.0, 100.0)
        assert [places[i] for i in np.argsort(wanted)] == sorted(places)
        assert min(np.diff(sorted(places))) >= 5.0 - 1e-9
        assert min(places) >= -1e-9 and max(places) <= 100 + 1e-9
    assert spread([3.0, 20.0, 40.0], 5.0, 0.0, 100.0) == [3.0, 20.0, 40.0], "what fits stays"
    assert spread([50.0, 50.0], 10.0, 0.0, 100.0) == [45.0, 55.0], "moved as little as possible"
    assert spread([], 1.0, 0.0, 1.0) == []


def test_import_is_light() -> None:
    code = (
        "import sys; from fusiondistill import report, statistics; "
        "print(*sorted({'ray', 'pydantic', 'matplotlib', 'experiments', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


def test_quickstart_takes_less_than_six_seconds(tmp_path: Path) -> None:
    results = table(rows_of(METHODS, levels=LEVELS, images=360))
    start = time.process_time()
    report.write(tmp_path, results, curves=curves_of(), trials=trials_of(), fusion=fusion_of())
    assert time.process_time() - start < 6


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_in_a_browser(written: Written, tmp_path: Path, width: int) -> None:
    # A window has a smallest width, a frame has none. The page has no script; this copy gets one that reports.
    measure = "<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth].join(' '), '*')</script>"
    copy, frame = tmp_path / "copy.html", tmp_path / "frame.html"
    copy.write_text(written[1][0].read_text().replace("</body>", f"{measure}</body>"))
    listen = "<script>onmessage = event => { document.title = event.data }</script>"
    frame.write_text(f'{listen}<iframe src="copy.html" style="width: {width}px; border: 0"></iframe>')
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    command = ["chromium", *flags, "--dump-dom", frame.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"<title>(\d+) (\d+)</title>", shown)
    assert found and found.groups() == (str(width), str(width))
