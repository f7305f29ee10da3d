"""The reader of a command's output leaves, or there is none: work goes on silently, a printing verb ends quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from running import command, environment, finished

SMALL = """
experiment: small
data: {name: digits, train_images: 60, test_images: 20}
model: {name: cifar_resnet8}
degradations: [blur]
methods: [base]
base: {epochs: 2, batch_size: 32}
evaluation: {every: 50}
"""


def in_a_shell(line: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """A shell's line in which ``"$@"`` is a verb with its arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *command(*arguments)],
        env=environment(cache), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_run_goes_on_to_its_end(tmp_path: Path) -> None:
    config, _, cache = finished(SMALL)
    there = ("run", str(config), "--local", "--store", str(tmp_path / "store"))
    done = in_a_shell('"$@" 2>&1 | true; exit ${PIPESTATUS[0]}', *there, cache=cache)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "store" / "report" / "index.html").exists()
    assert len(list((tmp_path / "store").glob("*/manifest.json"))) == 3


PRINTS = """
import sys
import click
from fusiondistill_runner.command import verb

@verb("speak", "")
def speak():
    for name in ("out", "err") * 50:
        click.echo(name * 1000, err=name == "err")
        print(name * 1000, file=sys.stdout if name == "out" else sys.stderr, flush=True)
    open(sys.argv.pop(), "w").write("at the end")

speak(sys.argv[1:-1])
"""


@pytest.mark.parametrize(
    "line", ['"$@" 2>&1 | true', '"$@" | true', '"$@" >&-', '"$@" >&- 2>&-', '"$@" >/dev/full 2>&1', '"$@" >/dev/full']
)
def test_a_verb_that_works_gets_to_its_end(line: str, tmp_path: Path) -> None:
    told = [sys.executable, "-c", PRINTS, str(tmp_path / "end")]
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}", "bash", *told], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and (tmp_path / "end").read_text() == "at the end"
    assert set(done.stderr.split()) <= {"err" * 1000}


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_a_verb_that_prints_ends_quietly(verb: str) -> None:
    config, store, cache = finished(SMALL)
    arguments = {"plan": [str(config), "--stages", "--no-measure"], "status": [str(store)]}[verb]
    done = in_a_shell('"$@" | true; exit ${PIPESTATUS[0]}', verb, *arguments, cache=cache)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_cannot_be_told_is_still_an_exit_code(tmp_path: Path) -> None:
    done = in_a_shell('"$@" 2>&1 | true; exit ${PIPESTATUS[0]}', "plan", str(tmp_path / "nowhere.yaml"), cache=tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
