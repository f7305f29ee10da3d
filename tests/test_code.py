"""Which code made a stage: the note in its manifest, and a plugin's source beside what it helped to make."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fusiondistill import __version__, load_checkpoint, load_model, plugins
from fusiondistill.cards import _plugin_copy
from fusiondistill.checkpoints import CheckpointError, sealed
from fusiondistill.code import code_digest
from fusiondistill.plugins import all_registries, load_plugins, read_plugins
from fusiondistill_runner.driving.prepared import Prepared, prepare, prepare_evaluation
from fusiondistill_runner.storage.noted_plans import note_plan, plans
from fusiondistill_runner.views.stage_tables import facts
from fusiondistill_runner.watching.status import StoreWatch
from fusiondistill_runner.working.execute import execute

FOLDER = Path(__file__).parent / "plugins"
CONFIG = """
experiment: coded
plugins: [PLUGINS]
data: {name: stripes, side: 8, count: 24, validation: 0}
model: {name: tiny, width: 3}
select: last
degradations: [blur]
methods: [base, plain, mine, modelsoups]
define:
  plain: {like: vanilla}
  mine: {like: vanilla, loss: {margin: 0.5}}
base: {epochs: 1, batch_size: 12}
expert: {epochs: 1, batch_size: 12}
vanilla: {epochs: 1, batch_size: 12}
evaluation: {every: 50}
"""


def unload() -> None:
    for file in list(plugins._loaded):
        for registry in all_registries().values():
            registry.forget(file)
    plugins._loaded.clear()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """A small run whose network, data and one loss term are plugins', done stage by stage."""
    folder = tmp_path_factory.mktemp("run")
    names = [folder / f"{name}.py" for name in ("tiny", "stripes", "margin")]
    for path in names:
        path.write_bytes((FOLDER / path.name).read_bytes())
    (folder / "config.yaml").write_text(CONFIG.replace("PLUGINS", ", ".join(map(str, names))))
    (folder / "store").mkdir()
    ready = prepare(str(folder / "config.yaml"), (), str(folder / "store"))
    note_plan(ready.store, ready.plan, {})
    for stage in ready.plan.stages:
        execute(stage, ready.context, torch.device("cpu"), lambda facts: None)
    yield ready
    unload()


def manifest_of(done: Prepared, name: str) -> dict[str, Any]:
    (stage,) = [stage for stage in done.plan.stages if stage.name == name]
    found = done.store.manifest(stage)
    assert found is not None
    return found


def sha256(name: str) -> str:
    return hashlib.sha256((FOLDER / f"{name}.py").read_bytes()).hexdigest()


def test_every_manifest_names_the_code(done: Prepared) -> None:
    for stage in done.plan.stages:
        code = (done.store.manifest(stage) or {})["code"]
        assert code == {"version": __version__, "digest": code_digest(), "entries": dict(stage.code)}
    entries = manifest_of(done, "mine")["code"]["entries"]
    assert entries == {
        "degradations/blur": "1",
        "losses/ce": "1",
        "losses/margin": f"plugin {sha256('margin')}",
        "networks/tiny": f"plugin {sha256('tiny')}",
        "sources/stripes": f"plugin {sha256('stripes')}",
    }


def test_report_and_status_read_that_note(done: Prepared) -> None:
    said = f"fusiondistill {__version__} ({code_digest()[:8]})"
    assert facts(done.store, plans(done.store))["code"] == said
    assert StoreWatch(done.store).look().codes == {said: len(done.plan.stages)}


def test_the_digest_is_that_of_the_installed_files_and_of_nothing_else(tmp_path: Path) -> None:
    script = "import sys; from fusiondistill.code import code_digest; print(code_digest(), 'torch' in sys.modules)"
    run = lambda **more: subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, **more)  # noqa: E731
    assert run().stdout.split() == [code_digest(), "False"]
    for name in ("fusiondistill", "fusiondistill_runner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'NAME, __version__ = "fusiondistill", "{name}"\n')
    (tmp_path / "fusiondistill" / "code.py").write_text(
        Path(sys.modules["fusiondistill.code"].__file__ or "").read_text()
    )
    expected = hashlib.sha256()
    for file in ("fusiondistill/__init__.py", "fusiondistill/code.py", "fusiondistill_runner/__init__.py"):
        content = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        expected.update(f"{file} {content}\n".encode())
    assert run(cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}).stdout.split()[0] == expected.hexdigest()


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("base", {"tiny", "stripes"}),
        ("mine", {"tiny", "stripes", "margin"}),
        ("fused", {"tiny", "stripes"}),
        ("evaluate-mine-blur", {"stripes"}),
    ],
)
def test_a_plugins_source_lies_beside_what_it_helped_to_make(done: Prepared, stage: str, names: set[str]) -> None:
    manifest = manifest_of(done, stage)
    copies = {name: entry for name, entry in manifest["files"].items() if name.startswith("plugin.")}
    assert copies.keys() == {f"plugin.{name}.py" for name in names}
    directory = f"{stage}-{manifest['digest'][:16]}"
    for name in names:
        assert copies[f"plugin.{name}.py"]["sha256"] == sha256(name)
        assert done.store.read_from(directory, f"plugin.{name}.py") == (FOLDER / f"{name}.py").read_bytes()


def test_a_checkpoint_says_where_the_copy_lies_and_takes_it(done: Prepared, tmp_path: Path) -> None:
    manifest = manifest_of(done, "fused")
    place = Path(done.store.path(f"fused-{manifest['digest'][:16]}"))
    weights, copy = (place / manifest["files"][name]["file"] for name in ("model.safetensors", "plugin.tiny.py"))
    loaded = plugins._loaded.copy()
    try:
        for path in (place, place / "manifest.json", weights, f"file://{place}"):
            unload()
            assert load_checkpoint(path)[1]["plugin"] == {"file": "tiny.py", "sha256": sha256("tiny")}
            with pytest.raises(CheckpointError, match=rf"--plugin FILE.*; a copy of it lies at {copy} "):
                load_model(path)
            data = ["evaluation.every=50", "data.count=24", "data.size=8", f"plugins=[{FOLDER / 'stripes.py'}]"]
            with pytest.raises(CheckpointError, match=rf"a copy of it lies at {copy} "):
                prepare_evaluation([str(path)], data, str(tmp_path), data="stripes")
        (tmp_path / "tiny.py").write_text((FOLDER / "tiny.py").read_text() + "\n# another\n")
        load_plugins(read_plugins([str(tmp_path / "tiny.py")]))
        with pytest.raises(CheckpointError, match=rf"is another .*; a copy of it lies at {copy} "):
            load_model(place)
        unload()
        load_plugins(read_plugins([str(copy)]))
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        assert load_model(place)(images).shape == (2, 2)
    finally:
        unload()
        load_plugins(list(loaded.values()))


def test_a_stored_copy_is_never_run(done: Prepared, tmp_path: Path) -> None:
    """Loading, looking, evaluating and reporting only read it."""
    trace, store = tmp_path / "trace", tmp_path / "store"
    text = (FOLDER / "tiny.py").read_text() + f"\nopen({str(trace)!r}, 'a').write('run')\n"
    config = Path(done.store.path()).parent / "config.yaml"
    (tmp_path / "tiny.py").write_text(text)
    (tmp_path / "config.yaml").write_text(
        config.read_text().replace(str(config.parent / "tiny.py"), str(tmp_path / "tiny.py"))
    )
    store.mkdir()
    ready = prepare(str(tmp_path / "config.yaml"), ("methods=[base]",), str(store))
    note_plan(ready.store, ready.plan, {})
    for stage in ready.plan.stages:
        execute(stage, ready.context, torch.device("cpu"), lambda facts: None)
    assert trace.read_text() == "run"
    trace.unlink()
    (base,) = [stage for stage in ready.plan.stages if stage.name == "base"]
    script = f"""
from fusiondistill import load_checkpoint, load_model
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views import results
from fusiondistill_runner.watching.status import status_lines
store = Store({str(store)!r})
load_checkpoint({str(store / base.directory)!r})
try:
    load_model({str(store / base.directory)!r})
except ValueError as error:
    print("refused", "a copy of it lies at" in str(error))
print(len(status_lines(store)))
results.write_report(store, results.write_results(store))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.splitlines()[0] == "refused True", ran.stderr
    assert not trace.exists()


def test_a_checkpoint_of_another_plugin_of_that_name_is_not_taken_for_a_stage(done: Prepared, tmp_path: Path) -> None:
    manifest = manifest_of(done, "base")
    place = done.store.path(f"base-{manifest['digest'][:16]}")
    config = Path(done.store.path()).parent / "config.yaml"
    (tmp_path / "tiny.py").write_text((FOLDER / "tiny.py").read_text() + "\n# another\n")
    text = config.read_text().replace(str(config.parent / "tiny.py"), str(tmp_path / "tiny.py"))
    (tmp_path / "config.yaml").write_text(text)
    loaded = plugins._loaded.copy()
    given = (f"base.checkpoint={place}", "methods=[base]")
    try:
        with pytest.raises(CheckpointError, match=r"the plugin that is loaded, .* is another"):
            prepare(str(tmp_path / "config.yaml"), given, str(tmp_path / "s"))
    finally:
        unload()
        load_plugins(list(loaded.values()))


def test_a_manifest_that_points_elsewhere_names_no_copy(tmp_path: Path) -> None:
    """A stranger's manifest is read like any other: sealed, and leading nowhere else."""
    content = {"attempt": "a", "files": {"plugin.x.py": {"file": "x.py", "sha256": "a" * 64, "bytes": 1}}}
    (tmp_path / "manifest.json").write_bytes(sealed(content))
    assert _plugin_copy(str(tmp_path), "a" * 64) == f"{tmp_path}/x.py" and _plugin_copy(str(tmp_path), "b" * 64) == ""
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert _plugin_copy(str(tmp_path), "a" * 64) == ""
    content["files"]["plugin.x.py"]["file"] = "../x.py"  # type: ignore[index]
    (tmp_path / "manifest.json").write_bytes(sealed(content))
    assert _plugin_copy(str(tmp_path), "a" * 64) == ""
