"""The blocks of README.md and docs/: found, checked, run.

- ```` ```console ````: ``$ command`` lines and what they print; run in order, in a folder of the page.
- ```` ```python ````: run in order, in one namespace of the page; a ``text`` block right below is what it prints.
- A block below "The file `NAME`:", or whose first line is ``# NAME.yaml`` or the like, is the file of that name.
- Other blocks (``sh``, or without a language) are not run; each ``fusiondistill`` command in them is parsed.

``...`` in expected output stands for anything.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from running import fusiondistill

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if DOCS / "reference" not in path.parents
}
"""Every page that people write, by its path in the project."""

SLOW = {"docs/tutorial.md", "docs/howto/cluster.md", "docs/howto/checkpoints.md"}
"""Pages with a whole run, a simulation or an evaluation."""

ROWS = ("base", "expert", "scratch", "vanilla", "fusing", "fusiondistill")
SMALLER = {
    "run photos.yaml": [f"{row}.epochs=1" for row in ROWS] + ["search=null", "evaluation.every=50"],
}
"""What tests lay over a config whose run takes minutes."""

LOCAL = ("run", "sweep", "search", "evaluate")
"""Verbs that tests run in one process; other tests hold both ways to the same bytes."""


@dataclass(frozen=True)
class Block:
    """A fenced block: language, text, line of its first line, and what stands between it and the one before."""

    language: str
    text: str
    line: int
    before: str

    @property
    def follows(self) -> bool:
        """Whether nothing stands between this block and the one before."""
        return not self.before.strip()

    @property
    def file(self) -> str:
        """The file that it is; "" where it is none."""
        name = r"([\w.-]+\.(?:py|yaml|csv))"
        found = re.match(rf"# {name}\n", self.text) or re.search(rf"[Tt]he file `{name}`:\s*$", self.before)
        return found[1] if found else ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page."""
    end = 0
    for found in re.finditer(r"^```(?!\{)([\w-]*)\n(.*?)^```$", text, re.M | re.S):
        yield Block(found[1], found[2], text[: found.start(2)].count("\n") + 1, text[end : found.start()])
        end = found.end()


def joined(text: str) -> list[str]:
    """A script's lines, those that end with a backslash joined with the next."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``fusiondistill`` command in a block, without the comment behind it."""
    for line in joined(text):
        if found := re.search(r"(?:^|[|$] |-- )(?=fusiondistill )", line):
            words = shlex.split(line[found.end() :].split(" | ")[0].split(" > ")[0], comments=True)
            yield [word for word in words[1:] if word not in ("&", "&&")]


def parse(words: list[str]) -> None:
    """Let click read a command without running it; raises UsageError."""
    from fusiondistill_runner.cli import main

    command: click.Command = main
    words = list(words)
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    if isinstance(command, click.Group):
        raise click.UsageError(f"no such verb: {words[:1]}")
    with command.make_context(command.name, words, help_option_names=[]):
        pass


def prints(expected: str, where: str, *streams: str) -> None:
    """Whether something printed what a page shows; several blanks are as one.

    Of two streams a page shows one behind the other, in any order, since a terminal mixes them.
    """
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    check = doctest.OutputChecker().check_output
    if not check(expected, "".join(streams), options) and not check(expected, "".join(reversed(streams)), options):
        raise AssertionError(f"{where}: the page shows\n{expected}\nand what comes is\n{''.join(streams)}")


def play(name: str, folder: Path, cache: Path, text: str | None = None) -> None:
    """Run all of a page that can be run in a folder of its own; ``text`` may stand for the page's."""
    space: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(text or PAGES[name].read_text()):
        where = f"{name}:{block.line}"
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * (block.line - 1) + block.text, where, "exec"), space)
            printed = out.getvalue()
        elif block.language == "text" and block.follows and printed:
            prints(block.text, where, printed)
        elif block.language == "console":
            console(block.text, folder, cache, where)


def console(text: str, folder: Path, cache: Path, where: str) -> None:
    """Run the commands of a block, and compare what they print."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.M)[1:]:
        line, _, expected = part.partition("\n")
        words = shlex.split(line, comments=True)
        if words[0] == "cat":
            prints(expected, where, Path(folder, words[1]).read_text())
            continue
        assert words[0] == "fusiondistill", f"{where}: {words[0]} is no command of ours: let its block be ```sh"
        local = ["--local"] if words[1] in LOCAL and "--local" not in words else []
        smaller = [word for one in SMALLER.get(" ".join(words[1:3]), ()) for word in ("--set", one)]
        done = fusiondistill(*words[1:], *local, *smaller, cache=cache, cwd=folder, timeout=600)
        assert done.returncode in (0, 2), f"{where}: {line}\n{done.stdout}{done.stderr}"
        if expected.strip():
            prints(expected, where, done.stdout, done.stderr)
        else:
            assert done.returncode == 0, f"{where}: {line}\n{done.stdout}{done.stderr}"
