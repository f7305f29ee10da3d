"""Examples: which images are chosen, what is said of them, and that nothing of them is markup."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.report.examples import Example, chosen, examples_blocks
from fusiondistill.report.methods import final_of
from fusiondistill.report.page import shown
from report_tables import CASES, HOSTILE, Page, answers_of, png, rows_of, samples_of, table


def example(index: int, **said: str) -> Example:
    return Example(index, "cat", {9: b""}, {9: said})


def test_one_image_of_each_case_the_first_of_the_test_split() -> None:
    examples = [
        example(7, base="dog", fusing="cat"), example(2, base="dog", fusing="cat"),
        example(3, base="cat", fusing="cat"), example(4, base="dog", fusing="dog"), example(5, base="dog"),
    ]  # fmt: skip
    asked = report.method("base"), report.method("fusing")
    found = chosen(examples, 9, *asked)
    assert [(title, one.index) for title, one in found] == [
        ("Base wrong, Fusing right", 2), ("both right", 3), ("both wrong", 4),
    ]  # fmt: skip
    assert [one.index for _, one in chosen(examples, 8, *asked)] == [2, 3, 4, 5], "nothing is known: the first"


@pytest.mark.parametrize(
    ("methods", "final"),
    [
        (["base", "fusiondistill", "fusiondistill-searched"], "fusiondistill-searched"),
        (["fusiondistill", "vanilla"], "fusiondistill"),
        (["vanilla", "base", "expert-blur", "fusing"], "fusing"),
        (["base", "expert-blur"], None),
    ],
)
def test_the_final_network_is_the_one_that_the_run_is_for(methods: list[str], final: str | None) -> None:
    found = final_of(report.EVERY.sorted(methods))
    assert (found.id if found else None) == final


def test_pictures_and_verdicts_stand_together(tmp_path: Path) -> None:
    text = report.write(tmp_path, table(rows_of()), samples=samples_of(), answers=answers_of())[0].read_text()
    page = Page(text)
    jpeg, blur = text.index(">JPEG</h3>"), text.index(">Blur</h3>")
    assert jpeg < blur
    assert re.findall(r"level (\d+)</th>", text[jpeg:blur]) == ["50", "25", "0"], "JPEG's mildest level is its highest"
    assert re.findall(r"level (\d+)</th>", text[blur:]) == ["0", "25", "50"]
    shown = [row for row in page.rows if row[0].startswith("cat ")]
    assert [row[0].removeprefix("cat ") for row in shown] == 2 * [
        "Base wrong, FusionDistill right", "both right", "Base right, FusionDistill wrong", "both wrong",
    ]  # fmt: skip
    hardest = " ".join(shown[0][-1].split())
    assert hardest == "✗ wrong: Base: dog ✓ right: Expert: cat ✓ right: FusionDistill: cat"
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert "cat, image 9 of the test split, Blur at level 50" in alts and len(alts) == 2 * 4 * 3
    assert 6 in CASES and not any("image 6 " in str(alt) for alt in alts), "one of a kind is enough"
    assert "how many of them are right says nothing" in page.text["p"]


def test_class_names_stay_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("\ud800", "") + "\N{RIGHT-TO-LEFT OVERRIDE}שלום"
    given: dict[str, Any] = {"samples": samples_of(name), "answers": answers_of(name, f"{name}'")}
    text = report.write(tmp_path, table(rows_of()), **given)[0].read_text()
    assert Page(text).tags.count("script") == 2 and "\N{RIGHT-TO-LEFT OVERRIDE}" not in text and "שלום" in text


def test_without_answers_there_are_pictures_alone() -> None:
    body = shown(examples_blocks(samples_of(), None, report.EVERY))
    assert body.count("<img") == 2 * 4 * 3 and "✓ right, ✗ wrong" in body and "<li>" not in body


def test_large_pictures_are_fewer() -> None:
    rows = [
        {"degradation": d, "level": level, "index": i, "label": "x", "image": png(i, side=360)}
        for d in ("jpeg", "blur") for level in range(3) for i in range(4)
    ]  # fmt: skip
    size = sum(len(row["image"]) for row in rows)
    assert size > 8_000_000
    body = shown(examples_blocks(pa.Table.from_pylist(rows), None, report.EVERY))
    assert len(body) < 6_000_000 and body.count("<table") == 2, "each degradation keeps one image"
