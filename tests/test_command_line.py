"""The command line on bad input, as a user meets it, and what the packages import on the way."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from running import command, environment

ROOT = Path(__file__).parent.parent
# Reports, when the process ends, which heavy packages it had imported.
WATCHED = """
import atexit, sys
heavy = ("ray", "torch", "torchvision", "numba", "scipy", "pyarrow", "pandas", "matplotlib", "sklearn")
atexit.register(lambda: print("IMPORTED", *[n for n in heavy if n in sys.modules], file=sys.stderr))
"""


def watched(tmp_path: Path, line: list[str]) -> tuple[int, str, set[str], float]:
    """(exit code, standard error, heavy packages imported, seconds of CPU) of a process."""
    (tmp_path / "sitecustomize.py").write_text(WATCHED)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        line,
        env={**environment(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT}/experiments"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    error, _, imported = done.stderr.rpartition("IMPORTED")
    return done.returncode, error, set(imported.split()), seconds


def test_a_bad_config_is_refused_at_once_and_before_anything_heavy(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("experiment: x\nbase: {epochs: none}\nmodel: {name: resnet19}\ndegradations: [blurr]\nextra: 1\n")
    for verb in ("validate", "plan", "run"):
        code, error, imported, seconds = watched(tmp_path, command(verb, str(bad)))
        assert code == 2 and imported == set() and seconds < 2, (imported, seconds)
        assert [line.split(":")[0].strip() for line in error.splitlines()[1:]] == [
            "line 2",
            "line 3",
            "line 4",
            "line 5",
        ]
        assert error.startswith(f"error: {bad}: 4 mistakes\n") and "Traceback" not in error


def test_a_missing_config_and_a_bad_override(tmp_path: Path) -> None:
    code, error, imported, _ = watched(tmp_path, command("validate", "quikstart"))
    assert (code, imported) == (2, set()) and "did you mean 'quickstart'?" in error
    code, error, imported, _ = watched(tmp_path, command("validate", "quickstart", "--set", "seeds=one"))
    assert (code, imported) == (2, set()) and "--set: seeds: " in error
    code, _, imported, _ = watched(tmp_path, command("validate", "quickstart", "--set", "seeds=[1, 2]"))
    assert (code, imported) == (0, set())


def test_help_is_quick(tmp_path: Path) -> None:
    code, _, imported, seconds = watched(tmp_path, command("--help"))
    assert (code, imported) == (0, set()) and seconds < 1.5


def test_importing_the_package_imports_neither_ray_nor_anything_heavy(tmp_path: Path) -> None:
    code, _, imported, _ = watched(tmp_path, [sys.executable, "-c", "import fusiondistill"])
    assert (code, imported) == (0, set())


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "fusiondistill").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_method_knows_no_cluster(path: Path) -> None:
    assert not imports(path) & {"ray", "fusiondistill_runner", "cluster"}


def test_the_plan_and_the_stages_know_no_ray() -> None:
    for name in ("planning/plan", "storage/store", "working/execute"):
        assert "ray" not in imports(ROOT / "experiments" / "fusiondistill_runner" / f"{name}.py")
