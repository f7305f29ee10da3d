"""Colours that every reader can tell apart: simulated colour vision on the page's own palettes, light and dark."""

import re
from dataclasses import replace
from importlib import resources
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiondistill.report.methods import Method
from fusiondistill.report.style import COLOURS, LineStyle, line_styles, plain_styles
from planned_report import EVERY
from report_tables import METHODS

# Machado, Oliveira and Fernandes (2009), the full deficiency, for linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
LINES = ("grey", "purple", "orange", "vermilion", "sky", "blue", "green", "ink")


def linear(colour: str) -> NDArray[np.float64]:
    parts = [colour[1:][i : i + 2] for i in (0, 2, 4)] if len(colour) == 7 else [c * 2 for c in colour[1:]]
    values = np.array([int(part, 16) for part in parts]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear sRGB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    x, y, z = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def palettes() -> dict[str, dict[str, str]]:
    """The palettes of the page's style, and that of the figures on their own."""
    css = resources.files("fusiondistill.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    found = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in blocks]
    return {**dict(zip(("light", "dark", "print"), found, strict=True)), "figures": COLOURS}


def apart(palette: dict[str, str], vision: str, a: str, b: str) -> float:
    seen = [lab(VISIONS[vision] @ linear(palette[name])) for name in (a, b)]
    return float(np.linalg.norm(seen[0] - seen[1]))


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("name", ["light", "dark", "print", "figures"])
def test_lines_differ_in_colour_or_in_dashes(name: str, vision: str) -> None:
    palette = palettes()[name]
    mine = [Method(f"mine {i}", order=100 + i, form="all", teachers="expert" * (i % 3 == 0)) for i in range(9)]
    methods = [*EVERY.sorted(METHODS), *mine]
    styles = line_styles(methods)
    rows = [method.id for method in methods if not method.own]
    plain = plain_styles(8)
    for a, b in [*combinations([styles[name] for name in rows], 2), *combinations(plain, 2)]:
        colour = apart(palette, vision, a.colour, b.colour)
        form = a.dashes != b.dashes or abs(a.width - b.width) > 0.8
        assert colour > 14 or form, f"{a} and {b} look alike: {colour:.0f}"
    for a, b in combinations(LINES, 2):
        assert apart(palette, vision, a, b) > 9, f"{a} and {b}"


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_text_stands_out_from_its_ground(name: str) -> None:
    palette = palettes()[name]

    def brightness(colour: str) -> float:
        return float(linear(palette[colour]) @ [0.2126, 0.7152, 0.0722])

    for text, ground in [("ink", "paper"), ("muted", "paper"), ("ink", "mark"), ("muted", "mark"), ("blue", "paper")]:
        dark, light = sorted((brightness(text), brightness(ground)))
        assert (light + 0.05) / (dark + 0.05) > 4.5, f"{text} on {ground}: WCAG AA"


@pytest.mark.parametrize("vision", VISIONS)
def test_gains_and_losses_differ_for_everybody(vision: str) -> None:
    import matplotlib as mpl

    below, above = mpl.colormaps["PuOr"](0.2)[:3], mpl.colormaps["PuOr"](0.8)[:3]
    palette = {"below": mpl.colors.to_hex(below), "above": mpl.colors.to_hex(above)}
    assert apart(palette, vision, "below", "above") > 40


def test_what_a_row_is_decides_how_its_line_looks() -> None:
    """Not what it is called: the same rows under other ids and in another order of plans look the same."""
    methods = EVERY.sorted(METHODS)
    styles = line_styles(methods)
    assert styles["base"] == LineStyle("grey")
    assert (styles["fusiondistill"].colour, styles["fusiondistill"].dashes) == ("green", "-")
    assert styles["fusiondistill"].width > 2 and styles["fusiondistill-searched"].colour == "green"
    for told in ("oracle", "modelsoups-told"):
        assert styles[told].colour == "ink" and styles[told].dashes != "-"
    renamed = line_styles([replace(method, id=f"x-{method.id}") for method in methods])
    assert renamed == {f"x-{name}": style for name, style in styles.items()}
