"""The pages of docs/ and README.md: their blocks run, the reference has everything, links lead somewhere."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import documents
from documents import DOCS, PAGES, ROOT, SLOW, blocks
from fusiondistill import LOSSES, __version__
from fusiondistill.config_file import ConfigError
from fusiondistill.config_file import parse as parse_config
from fusiondistill.config_keys import config_keys
from fusiondistill.plugins import all_registries

CODE = sorted(n for n, path in PAGES.items() if re.search(r"^```(python|console)", path.read_text(), re.M))


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """What writes the reference; Sphinx is not needed."""
    sys.path.insert(0, str(DOCS))
    try:
        import reference_pages
    finally:
        sys.path.remove(str(DOCS))
    return reference_pages


@pytest.fixture(scope="module")
def written(reference: ModuleType) -> dict[str, str]:
    return {name: make() for name, make in reference.PAGES.items()}


def test_the_reference_has_every_key_with_a_meaning(written: dict[str, str]) -> None:
    keys = [key for key in config_keys() if len(key.path) > 1]
    assert len(keys) > 100
    for key in keys:
        (line,) = [line for line in written["config"].splitlines() if line.startswith(f"- **`{'.'.join(key.path)}`**")]
        assert len(line.rpartition("**")[2].split()) >= 3, line
    for key in {key.path[0] for key in config_keys()}:
        assert f"\n## {key}\n" in written["config"]


@pytest.mark.parametrize("folder", [*all_registries()])
def test_the_reference_has_every_entry(written: dict[str, str], reference: ModuleType, folder: str) -> None:
    registry = all_registries()[folder]
    for name in registry.builtin:
        section = written[folder].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        said = registry[name].summary
        assert len(said.split()) >= 3 and reference.plain(said) in section, f"{folder}: {name} has no description"
        assert not registry[name].source or "- source: " in section
        for key, field in registry[name].parameters.model_fields.items():
            assert f"\n- `{key}` (" in section and field.description, f"{folder}: {name}.{key} has no description"


def test_the_reference_has_every_verb_with_an_example(written: dict[str, str], reference: ModuleType) -> None:
    verbs = dict(reference.verbs())
    assert {"run", "fuse", "data check", "cluster check"} <= verbs.keys()
    for name, command in verbs.items():
        section = written["commands"].partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert command.help and command.epilog and f"fusiondistill {name}" in command.epilog, name
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert f"- `{option.opts[-1]}" in section or f", {option.opts[-1]}" in section, f"{name} {option.opts}"
        for words in documents.commands(command.epilog):
            documents.parse(words)


def test_the_reference_has_every_exported_name(written: dict[str, str], reference: ModuleType) -> None:
    for name, one in reference.exported().items():
        if name in reference.VALUES:
            assert f"- `{name}`: " in written["python"]
        else:
            doc = inspect.getdoc(one) or ""
            assert doc and doc != inspect.getdoc(dict), f"{name} has no docstring"
            assert re.search(rf":: fusiondistill\.{name}[\n(]|^- `{name}`: ", written["python"], re.M), name


@pytest.mark.parametrize("name", PAGES)
def test_commands_and_configs_of_a_page_are_admitted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @LOSSES.register("margin")
    def margin(student: Any, teacher: Any, labels: Any, *, width: float = 1.0) -> None:
        """A page's plugin, which its own test runs."""

    monkeypatch.chdir(tmp_path)
    for block in blocks(PAGES[name].read_text()):
        if block.language in ("", "sh", "console", "text"):
            for words in documents.commands(block.text):
                try:
                    documents.parse(words)
                except click.UsageError as error:
                    raise AssertionError(f"{name}:{block.line}: {words}: {error.format_message()}") from error
        if block.language == "yaml":
            text = re.sub(r"^plugins: .*\n", "", block.text, flags=re.M)
            try:
                parse_config(text if "experiment:" in text else f"experiment: x\n{text}")
            except ConfigError as error:
                mistakes = [one for one in error.mistakes if "no such checkpoint" not in one.message]
                assert not mistakes, f"{name}:{block.line}: {error}"


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Links inside of the project; Sphinx checks those between its own pages once more."""
    text = re.sub(r"^```.*?^```", "", PAGES[name].read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (PAGES[name].parent / path) if path else PAGES[name]
        if "reference/" in path:
            assert file.stem in {"config", *all_registries(), "commands", "configs", "python"}, f"{name}: {target}"
            continue
        assert file.exists(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{name}: {target}"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CODE])
def test_a_page_runs_as_it_is_written(name: str, tmp_path: Path, own_cache: Path) -> None:
    documents.play(name, tmp_path, own_cache)


def test_the_tour_runs_in_a_smaller_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "tour.py").read_text()
    small = text.replace("IMAGES, EPOCHS, MODEL = 1200, 8,", "IMAGES, EPOCHS, MODEL = 40, 1,")
    small = small.replace('load_images("digits", "test")', 'load_images("digits", "test").take(20)')
    assert small.count(".take(20)") == 1 and small != text
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(compile(small, "tour.py", "exec"), space)
    assert (tmp_path / "tour.png").stat().st_size > 10_000
    assert len(space["way"]) == 5 and space["barrier"] >= 0
    assert {title for title, _ in space["accuracy"]} == {"base", "average", "TIES", "distilled"}


def test_every_page_can_be_found() -> None:
    """From the contents of the index; Sphinx warns of others, too."""
    index = (DOCS / "index.md").read_text()
    for name in PAGES:
        if name.startswith("docs/") and name != "docs/index.md":
            page = name.removeprefix("docs/").removesuffix(".md")
            assert re.search(rf"^(.*<)?{re.escape(page)}>?$", index, re.M), f"{name} is in no list of contents"


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
