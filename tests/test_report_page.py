"""The report's files: its page against a parser and a browser, its pictures against Pillow."""

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import planned_report as report
from fusiondistill.report.blocks import Mark, Table, Text
from fusiondistill.report.page import shown
from fusiondistill.report.words import MISSING
from report_tables import (
    HOSTILE,
    LEVELS,
    METHODS,
    Page,
    Written,
    all_tables,
    answers_of,
    classes_of,
    curves_of,
    fusion_of,
    known,
    rows_of,
    samples_of,
    surface_of,
    table,
    timeline_of,
    trials_of,
)

EVERY_FIFTH = {name: of[::5] for name, of in LEVELS.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    directory = tmp_path_factory.mktemp("report")
    paths = report.write(
        directory, table(rows_of()), **all_tables(),
        facts={"command": "fusiondistill run demo.yaml", "config": "name: demo\nseeds: [0, 1]"},
    )  # fmt: skip
    return directory, paths


def test_files_are_there_and_pictures_are_not_blank(written: Written) -> None:
    directory, paths = written
    assert paths[0] == directory / "index.html" and paths[1] == directory / "table.md"
    assert sorted(p for p in directory.rglob("*") if p.is_file()) == sorted(paths), "litter or a file not returned"
    names = {p.stem for p in paths if p.suffix == ".png"}
    of_stages = {"search", "search-best", "training-loss", "training-accuracy", "surface-fused", "time"}
    assert names == {*(f"accuracy-{d}" for d in LEVELS), "experts", "gain", "clean", *of_stages}
    for path in paths:
        if path.suffix == ".png":
            picture = Image.open(path).convert("P")
            assert min(picture.size) > 250 and len(set(picture.tobytes())) > 10
            assert 0.005 < (np.asarray(picture.convert("L")) < 200).mean() < 0.7, path.name
        if path.suffix == ".svg":
            assert ET.fromstring(path.read_bytes()).tag.endswith("svg")


def test_pictures_can_be_left_blank(written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONDISTILL_PICTURES", "0")
    paths = report.write(tmp_path, table(rows_of()), **all_tables())
    assert [path.name for path in paths] == [path.name for path in written[1]]
    assert {Image.open(path).size for path in paths if path.suffix == ".png"} == {(1, 1)}
    assert {ET.fromstring(path.read_bytes()).get("viewBox") for path in paths if path.suffix == ".svg"} == {"0 0 1 1"}
    drawn, blank = (Page(one[0].read_text()).tags.count("svg") for one in (written[1], paths))
    assert drawn == blank > 5


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
    pictures = [link for link in links if link.startswith("data:image/png;base64,")]
    assert len(pictures) == page.tags.count("img") > 0
    assert all(link.startswith("#") and link[1:] in ids for link in links if link not in pictures)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 2, "the counts and what shows them"
    assert page.tags.count("svg") == len([p for p in paths if p.suffix == ".svg"])
    assert not re.search(r"(stroke|fill): #(1b1f24|0072b2|fffffe)", text), "a colour that cannot follow light and dark"
    for heading in (
        "Training",
        "Search",
        "Fusion",
        "What the rows are",
        "Protocol",
        "How it was run",
        "Examples",
        "Time",
        "Gains and costs",
        "Classes",
        "Accuracy against level",
    ):
        assert heading in page.text["h2"]
    assert "name: demo\nseeds: [0, 1]" in page.text["pre"]
    assert "n = 3 seeds" in page.text["p"] and "40 test images per level" in page.text["figcaption"]
    (group,) = report.summarise(table(rows_of()))
    for row in group.rows:
        cells = next(r for r in page.rows if r[0].startswith(row.about.name) and len(r) == 7)
        for of, cell in zip([*map(row.cell, group.columns), row.clean], cells[1:], strict=True):
            interval = of.interval
            assert interval is None or cell == f"{interval.mean:.1f} ±{interval.half:.1f}"


def test_markdown_has_the_same_numbers(written: Written) -> None:
    _, paths = written
    text = paths[1].read_text()
    (group,) = report.summarise(table(rows_of()))
    interval = known(known(group.row("fusiondistill")).average.interval)
    line = next(line for line in text.splitlines() if line.startswith("| FusionDistill |"))
    assert line.split(" | ")[-1] == f"{interval.mean:.1f} ±{interval.half:.1f} |"
    answer = text.split("###")[0]
    counts = {line.count("|") for line in answer.splitlines() if line.startswith("|")}
    assert counts == {7}


def test_search_and_fusion_tables(written: Written) -> None:
    page = Page(written[1][0].read_text())
    trials = [row for row in page.rows if row[0].startswith("t") and len(row) == 9]
    assert [row[0] for row in trials] == ["trial", "t2", "t0", "t3", "t1"], "finished first, the best on top"
    assert trials[1][-2] == "73.4" and trials[-1][4] == MISSING and trials[-1][-1] == "yes"
    (fused,) = [row for row in page.rows if row[0] == "fuse" and len(row) == 5]
    assert fused[:4] == ["fuse", "jpeg", "2", f"0.200 ±{12.7062047 * 0.1:.3f}"] and fused[4] == "0.250"


def test_searched_choices_are_drawn_beside_numbers(tmp_path: Path) -> None:
    """A way of fusing has no place on an axis of numbers, and no trial may be left out of its panel."""
    ways = ["average", "ties", "median", "ties"]
    trials = trials_of().append_column("fusion.method", [ways]).append_column("compile", [[True, False, None, True]])
    paths = report.write(tmp_path, table([]), trials=trials.drop_columns(["kd"]))
    figure = (tmp_path / "figures" / "search.svg").read_text()
    labels = re.findall(r">([^<>]+)</text>", figure)
    assert [one for one in labels if one in ways] == ["average", "median", "ties"]
    assert [one for one in labels if one in ("True", "False", MISSING)] == ["False", "True", MISSING]
    text = paths[0].read_text()
    assert "against ce, feature, temperature, fusion.method, compile." in text
    assert (
        "under other values of ce, feature, temperature, fusion.method, compile," in text and "loss weights" not in text
    )


def test_protocols_are_explained_with_their_leaks(tmp_path: Path) -> None:
    protocols = ("paper", "standard", "mine")
    results = table([row for name in protocols for row in rows_of(["base", "fusing"], protocol=name)])
    page = Page(report.write(tmp_path, results)[0].read_text())
    said = page.text["li"]
    for words in ("best on the test split", "as the value 1", "BatchNorm statistics", "held out of training"):
        assert words in said, words
    assert "does not know" in said
    assert page.attributes.count(("table", "class", "answer with-clean")) == 3
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
        "fusion": fusion_of(named), "samples": samples_of(named), "answers": answers_of(named, named + "!"),
        "timeline": timeline_of(named), "surface": surface_of(named),
        **classes_of(named, "<hr>", named, [named, "base"], {named: (0, 1), "blur": (0, 1)}),
    }  # fmt: skip
    paths = report.write(tmp_path / "r", results, **given, facts={HOSTILE: HOSTILE})
    text = paths[0].read_text()
    page = Page(text)
    assert page.tags.count("script") == 2 and text.count("<script") == 2 and "\x1b" not in text and "<hr" not in text
    assert "Classes" in page.text["h2"] and named.split(" \x1b")[0] in page.text["dd"] + page.text["pre"]
    assert all(path.parent in (tmp_path / "r", tmp_path / "r" / "figures") for path in paths)
    assert "<script" not in paths[1].read_text() and "\x1b" not in paths[1].read_text()
    for path in paths:
        if path.suffix == ".svg":
            assert "script" not in {e.tag.rpartition("}")[2] for e in ET.fromstring(path.read_bytes()).iter()}
    lines = report.table_lines(results)
    assert all(line.isprintable() for line in lines)


def test_text_and_attributes_are_escaped_wherever_they_stand() -> None:
    odd = '1 < 2 & "x">\0'
    safe = "1 &lt; 2 &amp; &#34;x&#34;&gt;\N{REPLACEMENT CHARACTER}"
    table = Table(odd, [odd, "Salt+pepper"], [[(odd, odd), Mark(odd, odd)]], "grid")
    html = shown([Text(odd), Text((odd, Mark("y", odd))), table])
    assert html.count(safe) == 9 and '<p class="note">' in html and "Salt+<wbr>pepper" in html
    assert "\0" not in html and "1 < 2" not in html


def test_many_trials_fold_away(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path, table([]), trials=trials_of(count=30))[0].read_text())
    assert "All 30 rows" in page.text["summary"]


def test_same_tables_same_bytes(written: Written, tmp_path: Path) -> None:
    directory, paths = written
    again = report.write(
        tmp_path, table(rows_of()), **all_tables(),
        facts={"command": "fusiondistill run demo.yaml", "config": "name: demo\nseeds: [0, 1]"},
    )  # fmt: skip
    for old, new in zip(paths, again, strict=True):
        assert old.relative_to(directory) == new.relative_to(tmp_path)
        assert old.read_bytes() == new.read_bytes(), new.name


def test_figures_that_an_earlier_report_had_are_gone(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"somebody's own, from before there was a report")
    results = table(rows_of(["base", "fusing"], levels={"blur": (0, 1), "noise": (0, 1)}))
    first = report.write(tmp_path, results)
    assert (tmp_path / "figures" / "accuracy-noise.svg") in first and (tmp_path / "figures" / "mine.png").exists()
    (tmp_path / "figures" / "notes.txt").write_text("no figure")
    second = report.write(tmp_path, table(rows_of(["base"], levels={"blur": (0, 1)})))
    kept = {path for path in (tmp_path / "figures").iterdir() if path.suffix != ".txt"}
    assert kept == {path for path in second if path.parent.name == "figures"} and len(kept) == 2
    assert (tmp_path / "figures" / "notes.txt").exists()


def test_names_of_experiments_are_left_as_they_are(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path, table([]), facts={"my_run: command": "fusiondistill run my_run"})[0].read_text())
    assert "my_run: command" in page.text["dt"]


def test_sentences_fit_what_there_is(tmp_path: Path) -> None:
    """Tests that were not made are not pointed at, one degradation is no average, shared stages are told of."""
    one = rows_of(["base", "fusiondistill"], levels={"blur": (0, 1)})
    page = Page(report.write(tmp_path, table(one))[0].read_text())
    assert "clean (Blur; ± half" in page.text["p"] and "a matter of the tests" not in page.text["figcaption"]
    pair = {"a": "base", "b": "fusiondistill", "images": 9, "seeds": 1, "difference": 1.0, "low": 0.5, "high": 2.0}
    tests = pa.Table.from_pylist(
        [{**{k: one[0][k] for k in ("experiment", "dataset", "model", "protocol")}, **pair, "p": 0.1, "p_holm": 0.1,
          "seed_half": None}]
    )  # fmt: skip
    page = Page(report.write(tmp_path, table(one), comparisons=tests)[0].read_text())
    assert "a matter of the tests above" in page.text["figcaption"]
    curves = curves_of(("base",))
    points = [curves.append_column("experiment", pa.array([name] * len(curves))) for name in ("p0", "p1")]
    for part, shared in ((pa.concat_tables(points), True), (points[0], False)):
        page = Page(report.write(tmp_path, table(one), curves=part)[0].read_text())
        assert ("stands under the first of them alone" in page.text["p"]) == shared


def test_a_failed_write_leaves_the_old_report_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = table(rows_of(["base"], levels={"blur": (0, 1)}))
    before = {path: path.read_bytes() for path in report.write(tmp_path, results)}

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path, table(rows_of(["base", "fusing"], levels={"blur": (0, 1)})))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_import_is_light() -> None:
    code = (
        "import sys; from fusiondistill import report, statistics; "
        "print(*sorted({'ray', 'pydantic', 'matplotlib', 'fusiondistill_runner', 'scipy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


def test_quickstart_takes_less_than_six_seconds(tmp_path: Path) -> None:
    results = table(rows_of(METHODS, levels=LEVELS, images=360))
    start = time.process_time()
    report.write(tmp_path, results, **all_tables())
    assert time.process_time() - start < 6


@pytest.mark.slow
def test_fifty_runs_take_less_than_a_minute(tmp_path: Path) -> None:
    names = [f"run {i}" for i in range(50)]
    results = pa.concat_tables(table(rows_of(METHODS, levels=EVERY_FIFTH, experiment=name)) for name in names)
    of_all = {}
    for kind, one in all_tables().items():
        bare = one.drop_columns(["experiment"]) if "experiment" in one.column_names else one
        parts = [bare.append_column("experiment", pa.array([name] * len(bare))) for name in names]
        of_all[kind] = pa.concat_tables(parts)
    start = time.process_time()
    page = report.write(tmp_path, results, **of_all)[0]
    assert time.process_time() - start < 60
    assert page.stat().st_size < 12_000_000
    text = page.read_text()
    assert "those of the first 12 of 50 experiments" in text and text.count('class="answer with-clean"') == 50
