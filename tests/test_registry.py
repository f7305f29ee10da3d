"""What all registries have in common: names without imports, nearest names, parameters, plugins."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fusiondistill.catalogue import catalogue
from fusiondistill.plugins import FOLDERS, PluginError, all_registries, load_plugins, read_plugins
from fusiondistill.registry import REGISTRIES, Registry, UnknownEntry

PACKAGE = "made_up_kind"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry of a folder with two entries; importing either is noted in `sys`."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_helper.py").write_text("")
    (folder / "inside").mkdir()
    for name in ("plain", "strong"):
        (folder / f"{name}.py").write_text(
            f'''import sys
from {PACKAGE} import THINGS
sys.imported_things.append("{name}")
@THINGS.register("{name}", version=3, source="a paper")
def {name}(x, *, power: float = 1.0):
    """Raise to a power.

    More of it.
    """
    return x**power
'''
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "imported_things", [], raising=False)
    import made_up_kind  # type: ignore[import-not-found]

    made_up_kind.THINGS = Registry("made-up thing", PACKAGE, first=("strong",))
    yield made_up_kind.THINGS
    REGISTRIES.pop(PACKAGE)
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def no_plugin_stays():
    yield
    from fusiondistill import plugins

    for file in list(plugins._loaded):
        for one in all_registries().values():
            one.forget(file)
    plugins._loaded.clear()


def plugin(tmp_path: Path, text: str, name: str = "mine.py"):
    (tmp_path / name).write_text(text)
    return read_plugins([str(tmp_path / name)])


def test_names_come_from_the_folder_and_reading_an_entry_imports_its_file(registry):
    assert list(registry) == ["strong", "plain"] and "plain" in registry and "_helper" not in registry
    assert len(registry) == 2 and sys.imported_things == []
    entry = registry["plain"]
    assert sys.imported_things == ["plain"]
    assert (entry.summary, entry.code, entry.source) == ("Raise to a power.", "3", "a paper")
    with pytest.raises(KeyError):
        registry["_helper"]


def test_an_unknown_name_gets_the_nearest_or_all(registry):
    with pytest.raises(UnknownEntry, match=r"no made-up thing 'strog'; did you mean 'strong'\?"):
        registry.find("strog")
    with pytest.raises(UnknownEntry, match="known: strong, plain"):
        registry.find("qqqqqqqq")


def test_the_names_of_all_registries_are_known_without_torch():
    code = (
        "import sys; from fusiondistill.plugins import all_registries;"
        "names = {folder: list(found) for folder, found in all_registries().items()};"
        "from fusiondistill.networks import NETWORKS; from fusiondistill.sources import SOURCES;"
        "assert names['degradations'][:4] == ['jpeg', 'blur', 'noise', 'saltpepper'];"
        "assert NETWORKS.check_name('cifar_resnet57') and not NETWORKS.check_name('resnet18');"
        "assert SOURCES['folder'].needs_root and not SOURCES['cifar10'].needs_root;"
        "from fusiondistill.inference import INFERENCE; assert INFERENCE['own'].told;"
        "print([name for name in ('torch', 'torchvision', 'numba', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_built_in_entry_can_be_read_and_has_a_line():
    assert tuple(all_registries()) == FOLDERS
    for found in all_registries().values():
        for name, entry in found.items():
            assert entry.name == name and 10 < len(entry.summary) < 160 and entry.plugin is None


def test_parameters_have_types_ranges_and_defaults(registry):
    @registry.register("ranged")
    def ranged(
        x,
        *,
        share: Annotated[float, Field(gt=0, le=1, description="of the whole")] = 0.2,
        way: Literal["up", "down"],
        times: "int | None" = None,
    ):
        """Take a share."""

    entry = registry["ranged"]
    assert entry.resolve({"way": "up"}) == {"share": 0.2, "way": "up", "times": None}
    for wrong in (
        {},
        {"way": "left"},
        {"way": "up", "share": 0},
        {"way": "up", "shar": 1},
        {"way": "up", "times": "x"},
    ):
        with pytest.raises(ValidationError):
            entry.resolve(wrong)
    with pytest.raises(ValueError, match="made-up thing 'ranged' has no parameter 'shar'; did you mean 'share'"):
        entry.checked({"way": "up", "shar": 1})
    with pytest.raises(ValueError, match="parameter share of the made-up thing 'ranged': input should be less than"):
        entry.checked({"way": "up", "share": 2})
    lines = "\n".join(catalogue({PACKAGE: registry}, "made-up thing", width=118))
    assert "share (number) = 0.2, above 0, at most 1: of the whole" in lines
    alone = list(catalogue({PACKAGE: registry}, "made-up thing", "plain"))
    assert "  plain" in alone[1] and not any("ranged" in line for line in alone)
    with pytest.raises(UnknownEntry, match="did you mean 'ranged'"):
        list(catalogue({PACKAGE: registry}, "made-up thing", "range"))
    assert "way (up or down)" in lines and "times (whole number or nothing) = null" in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@R.register('plain')\ndef f(x):\n    'A line.'\n", "there already is a made-up thing 'plain'"),
        ("@R.register('Fine')\ndef f(x):\n    'A line.'\n", "lower-case letters, digits and underscores"),
        ("@R.register('fine')\ndef f(x): pass\n", "needs a docstring"),
        (
            "@R.register('fine')\ndef f(x, *, y=1):\n    'A line.'\n",
            "parameter y of the made-up thing .* needs a type",
        ),
    ],
)
def test_what_cannot_be_registered(registry, text, message):
    with pytest.raises(ValueError, match=message):
        exec(text, {"R": registry, "__name__": "somewhere"})


def test_a_plugin_adds_and_replaces_and_is_forgotten(tmp_path):
    degradations = all_registries()["degradations"]
    text = (
        "from fusiondistill import DEGRADATIONS\n"
        "@DEGRADATIONS.register('{name}', range(3), replace={replace})\n"
        "def same(images, levels):\n"
        "    'Do nothing.'\n"
        "    return images\n"
    )
    (first,) = plugin(tmp_path, text.format(name="idle", replace=False))
    load_plugins([first])
    assert degradations["idle"].plugin == first and degradations["idle"].code == f"plugin {first.sha256}"
    (second,) = plugin(tmp_path, text.format(name="blur", replace=True))  # the file changed
    load_plugins([second])
    assert "idle" not in degradations and len(degradations["blur"].levels) == 3
    assert degradations["blur"].code == f"plugin {second.sha256}" != f"plugin {first.sha256}"
    (third,) = plugin(tmp_path, text.format(name="blur", replace=False))
    with pytest.raises(PluginError, match=r"mine\.py, line 2 .*there already is a degradation 'blur'"):
        load_plugins([third])
    assert len(degradations["blur"].levels) == 51  # what the failed file had replaced before is back


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = x / 0\n", r"mine\.py, line 2 \(y = x / 0\): ZeroDivisionError: division by zero"),
        ("def f(:\n", r"mine\.py, line 1: not valid Python"),
        ("\n\nimport nothing_of_that_name\n", r"mine\.py, line 3 .*ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(PluginError, match=message):
        load_plugins(plugin(tmp_path, text))


def test_a_plugin_runs_once_a_process_and_two_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "imported_things", [], raising=False)
    text = "import sys\nfrom fusiondistill import LOSSES\nsys.imported_things.append(1)\n"
    text += "@LOSSES.register('once')\ndef once(student, teacher, labels):\n    'A line.'\n"
    found = plugin(tmp_path, text)
    load_plugins(found)
    load_plugins(found)
    assert sys.imported_things == [1]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.py").write_text("")
    with pytest.raises(PluginError, match=r"two plugins are called mine\.py"):
        read_plugins([found[0].path, str(tmp_path / "b" / "mine.py")])
    with pytest.raises(PluginError, match=r"nowhere\.py cannot be read"):
        read_plugins(["nowhere.py"])
