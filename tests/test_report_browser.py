"""The report's page in a real browser: whole, quiet and usable, on a screen, a phone and paper."""

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import planned_report as report
from fusiondistill.report.words import MISSING
from report_tables import (
    HOSTILE,
    all_tables,
    answers_of,
    chain_of,
    classes_of,
    corrupted,
    known,
    rows_of,
    samples_of,
    table,
    timeline_of,
    trials_of,
)  # fmt: skip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not CHROMIUM:
    pytest.skip("needs chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")

LONG = "an_experiment_with_a_name_that_no_line_of_a_phone_can_hold_" * 3


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An ordinary page, and one of hostile and endless names."""
    folder = tmp_path_factory.mktemp("report")
    facts = {"command": "fusiondistill run demo.yaml", "config": "seeds: [0, 1]\n" * 40}
    tests = {
        "usual": report.write(
            folder / "usual", table(rows_of()), **{**all_tables(), "trials": trials_of(count=30)}, facts=facts
        )[0]
    }
    odd = HOSTILE.replace("\ud800", "")
    rows = rows_of(["base", "fusiondistill", odd], experiment=odd, dataset=LONG, levels={odd: (0, 1), LONG: (0, 1)})
    rows += rows_of(["base"], experiment=LONG)
    given = {
        **all_tables(),
        "samples": samples_of(LONG),
        "answers": answers_of(LONG, odd),
        "timeline": timeline_of(odd),
        **classes_of(LONG, odd, odd, ["base", "fusiondistill", odd], {odd: (0, 1), LONG: (0, 1)}),
    }
    long = chain_of([59, 70, 3600, 9, 7300, 250, 61, 30, 100, 5, 8, 3700, 600])
    tests["corruptions"] = report.write(folder / "corruptions", corrupted(), **{**all_tables(), "timeline": long})[0]
    tests["hostile"] = report.write(folder / "hostile", table(rows), **given, facts={odd: LONG, LONG: odd})[0]
    return tests


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def said() -> list[str]:
    """What a page complains about, and what it asks the network for."""
    return []


@pytest.fixture
def visit(chromium: Any, pages: dict[str, Path], said: list[str]) -> Iterator[Any]:
    """Open a page at a width; every console message, error and request but for the page itself is noted."""
    contexts = []

    def opened(name: str = "usual", width: int = 1280, **settings: Any) -> Any:
        context = chromium.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()


def quiet(said: list[str]) -> bool:
    """Nothing was said or asked for but the page itself and pictures within it."""
    return not [text for text in said if not text.startswith("data:image/png") and not text.endswith("index.html")]


@pytest.mark.parametrize("name", ["usual", "corruptions", "hostile"])
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_loads_quietly_and_nothing_sticks_out(
    visit: Any, said: list[str], name: str, colours: str, width: int
) -> None:
    page = visit(name, width, color_scheme=colours)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    empty = page.evaluate(
        "[...document.querySelectorAll('figure svg')].filter(svg => { const box = svg.getBBox();"
        " return box.width < 100 || box.height < 60 || svg.querySelectorAll('path').length < 5 })"
        ".map(svg => svg.getAttribute('aria-label'))"
    )
    assert empty == [] and page.locator("figure svg").count() >= 5
    broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth || !one.alt).length")
    assert broken == 0 and page.locator("img").count() > 5
    assert quiet(said), said
    ground, ink = page.evaluate("(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))")
    assert (brightness(ground) > 200 and brightness(ink) < 60) == (colours == "light")


def test_a_box_that_is_cut_off_says_that_it_scrolls(visit: Any) -> None:
    for width in (390, 1280):
        page = visit("usual", width)
        boxes = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(one => one.checkVisibility()).map(one =>"
            " [one.scrollWidth > one.clientWidth + 1, one.previousElementSibling.checkVisibility()])"
        )
        assert all(cut == told for cut, told in boxes) and len(boxes) > 5
        assert any(cut for cut, _ in boxes) or width > 390


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3


def test_a_number_leads_to_its_rows(visit: Any, said: list[str]) -> None:
    page = visit()
    (group,) = report.summarise(table(rows_of()))
    row = known(group.row("base"))
    link = page.locator("table.answer tbody tr").first.locator("a.number").nth(1)
    link.focus()
    page.keyboard.press("Enter")
    text = page.locator("dialog").inner_text()
    assert "Base · Blur" in text and f"seed 2: {row.cells['blur'].by_seed[2]:.2f} %" in text
    rights = {
        r["level"]: r["right"] for r in rows_of() if (r["method"], r["seed"], r["degradation"]) == ("base", 0, "blur")
    }
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    assert [(int(line[0]), line[1].split(" of ")[0]) for line in lines[1:]] == [(k, str(v)) for k, v in rights.items()]
    page.keyboard.press("Escape")
    assert page.locator("dialog").count() == 0
    page.locator("table.answer tbody tr").first.locator("a.number").last.click()
    text = page.locator("dialog").inner_text()
    assert "Avg" in text and f"{row.average.by_seed[1]:.2f}" in text
    assert quiet(said), said


def test_tables_sort_and_filter_by_keyboard_and_print_whole(visit: Any) -> None:
    page = visit()
    page.locator("#counts-1 > summary").click()
    counts = page.locator("#counts-1 table")
    button = counts.get_by_role("button", name="mean over levels, %")
    button.focus()
    page.keyboard.press("Enter")
    means = [float(text) for text in counts.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert means == sorted(means) and counts.locator("th[aria-sort=ascending]").count() == 1
    page.keyboard.press("Enter")
    means = [float(text) for text in counts.locator("tbody td:nth-child(7)").all_inner_texts()]
    assert means == sorted(means, reverse=True) and counts.locator("th[aria-sort=descending]").count() == 1
    page.locator("#counts-1 input").fill("FusionDistill (searched) blur")
    assert counts.locator("tbody tr:visible").count() == 3
    assert "3 of" in page.locator("#counts-1 label").inner_text()
    page.locator("summary", has_text="All 30 rows").click()
    trials = page.locator("#search details table")
    page.locator("#search details input").fill("nothing like this")
    assert trials.locator("tbody tr:visible").count() == 0
    page.emulate_media(media="print")
    assert trials.locator("tbody tr:visible").count() == 30 and not page.locator("input").first.is_visible()


def test_without_scripts_a_number_leads_to_a_plain_table(visit: Any) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator("button, input, dialog").count() == 0
    link = page.locator("table.answer tbody tr").first.locator("a.number").first
    link.click()
    target = page.locator(page.url[page.url.index("#") :])
    assert target.locator("th").inner_text() == "Base" and target.is_visible()


def test_print_shows_folded_parts_in_black_on_white(visit: Any, tmp_path: Path) -> None:
    page = visit(color_scheme="dark")
    folded = page.locator("details:not([open])").count()
    data = page.pdf(format="A4", print_background=False)
    assert data.startswith(b"%PDF") and folded > 2
    page.emulate_media(media="print")
    ground, ink = page.evaluate("(style => [style.backgroundColor, style.color])(getComputedStyle(document.body))")
    assert brightness(ground) == 255 and brightness(ink) == 0
    assert page.locator("#search details tbody tr").last.is_visible(), "folded parts are open on paper"
    assert not page.locator("#counts-1").is_visible(), "but for the long list that is for looking up"
    page.emulate_media(media="screen")
    assert page.locator("details:not([open])").count() == folded, "printing changes nothing"


A4 = 680
"""Pixels that a sheet is wide between its margins."""


@pytest.mark.parametrize("name", ["usual", "corruptions", "hostile"])
def test_nothing_runs_off_the_paper(visit: Any, name: str) -> None:
    page = visit(name, A4)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.emulate_media(media="print")
    outside = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(one => one.getClientRects().length && !one.closest('.unseen')"
        f" && one.getBoundingClientRect().right > {A4} + 1)"
        ".map(one => `${one.tagName} ${one.closest('section').id} ${one.textContent.slice(0, 40)}`)"
    )
    assert outside == [], outside[:5]


def test_numbers_in_a_map_of_many_columns_can_be_read(visit: Any) -> None:
    """Each keeps a height of nine pixels at least, and none lies on its neighbour."""
    for width in (1280, 390):
        page = visit("corruptions", width)
        boxes = page.evaluate(
            "[...document.querySelectorAll('#table-1-2 .wide figure')].flatMap(figure =>"
            " [...figure.querySelectorAll('svg text')].filter(one => /^.?[0-9.]+$/.test(one.textContent))"
            ".map(one => one.getBoundingClientRect()).map(({x, y, width, height}) => [x, y, width, height]))"
        )
        assert len(boxes) == 2 * 20 and min(box[3] for box in boxes) >= 9
        boxes.sort(key=lambda box: (round(box[1]), box[0]))
        pairs = [(a, b) for a, b in pairwise(boxes) if round(a[1]) == round(b[1])]
        assert len(pairs) == 2 * 19 and all(a[0] + a[2] < b[0] for a, b in pairs)


def test_durations_sort_by_their_length_and_what_is_missing_stays_last(visit: Any) -> None:
    page = visit("corruptions")
    page.locator("#time summary", has_text="All 13 rows").click()
    chain = page.locator("#time details table")

    def column(number: int) -> list[str]:
        return list(chain.locator(f"tbody td:nth-child({number})").all_inner_texts())

    chain.get_by_role("button", name="ran").click()
    assert column(4) == ["5.0 s", "8.0 s", "9.0 s", "30 s", "59 s", "1 min 01 s", "1 min 10 s", "1 min 40 s",
                         "4 min 10 s", "10 min 00 s", "1 h 00 min", "1 h 01 min", "2 h 01 min"]  # fmt: skip
    waited = chain.get_by_role("button", name="then waited")
    for _ in range(2):
        waited.click()
        assert column(3) == ["1.0 s"] * 12 + [MISSING]
