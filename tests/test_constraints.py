"""The versions that `make` and CI install against: exact, public, and those that pyproject.toml admits."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fusiondistill import __version__

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINNED = {
    canonicalize_name(name): found for name, _, found in (line.partition("==") for line in LINES if line[0] != "#")
}


def test_each_line_is_a_name_and_a_release_without_any_place() -> None:
    for line in LINES:
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==\d[\w.!]*", line), line
    assert LINES[0].startswith("#") and any(
        re.match(r"# Made with Python 3\.\d+\.\d+ for \w+ \w+\.$", x) for x in LINES
    )


def test_what_the_project_asks_for_is_pinned_to_what_it_admits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["dev"], *extras["docs"]):
        requirement = Requirement(text)
        found = PINNED.get(canonicalize_name(requirement.name))
        assert found and requirement.specifier.contains(found), f"{text}: constraints.txt has {found}"


def test_they_are_what_make_and_the_image_install_against() -> None:
    makefile, image = ((ROOT / name).read_text() for name in ("Makefile", "cluster/Dockerfile"))
    assert ".venv/installed: pyproject.toml constraints.txt\n" in makefile
    assert "--constraint constraints.txt" in makefile and "--constraint constraints.txt" in image


def test_the_version_stands_in_one_place() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in content["project"]["dynamic"] and "version" not in content["project"]
    assert content["tool"]["hatch"]["version"]["path"] == "fusiondistill/__init__.py"
    assert __version__ == "0.2.0"
