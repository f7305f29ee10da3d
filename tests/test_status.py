"""Looking at a run from elsewhere: what it writes about itself, and ``status --watch`` beside a real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fusiondistill.checkpoints import sealed
from fusiondistill_runner.storage.lease import machine
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.stage_tables import facts
from fusiondistill_runner.watching import status
from fusiondistill_runner.watching.status import StoreWatch, status_lines
from fusiondistill_runner.watching.status_file import STATUS_FILE, StatusFile, read_status
from running import command, environment, fusiondistill, on_terminal, started, wait_for
from shelf import Shelf, drawn

CONFIG = """
experiment: watched
data: {name: digits, train_images: 200, test_images: 61}
model: {name: cifar_resnet8}
degradations: [blur]
methods: [base, vanilla]
base: {epochs: 30, batch_size: 16}
vanilla: {epochs: 2, batch_size: 32}
evaluation: {every: 25}
"""


def test_a_run_says_what_it_is_at_and_how_it_ended(tmp_path: Path) -> None:
    store, content = Store(tmp_path), {"running": [], "finished": 0, "failed": 0, "complete": False}
    with StatusFile(store, lambda: dict(content)):
        wait_for(lambda: (tmp_path / STATUS_FILE).exists())
        content["finished"] = 1
        wait_for(lambda: (read_status(store) or {}).get("finished") == 1)
        said = read_status(store)
        assert said and said["state"] == "running" and said["silent"] is None and said["process"] == os.getpid()
    assert (read_status(store) or {})["state"] == "failed"
    with pytest.raises(KeyboardInterrupt), StatusFile(store, lambda: dict(content)):
        raise KeyboardInterrupt
    assert (read_status(store) or {})["state"] == "interrupted"
    content["complete"] = True
    with StatusFile(store, lambda: dict(content)):
        pass
    assert (read_status(store) or {})["state"] == "done"


SAID = {"state": "running", "host": "h", "process": 1, "updated": 1.0, "running": [], "seconds_left": None}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        "[1]",
        json.dumps({name: value for name, value in SAID.items() if name != "state"}),
        json.dumps({name: value for name, value in SAID.items() if name != "running"}),
        json.dumps({**SAID, "updated": "yesterday"}),
        json.dumps({**SAID, "updated": float("nan")}),
        json.dumps({**SAID, "updated": 10**400}),
        json.dumps({**SAID, "running": [{"directory": ["x"], "worker": "w", "since": 0}]}),
        json.dumps({**SAID, "running": [{"directory": "x", "worker": "w"}]}),
    ],
    ids=range(10),
)
def test_what_is_no_board_counts_as_none(text: str, tmp_path: Path) -> None:
    shelf = shelf_with_one_missing(tmp_path)
    (tmp_path / STATUS_FILE).write_text(json.dumps(SAID))
    assert read_status(shelf.store) is not None
    (tmp_path / STATUS_FILE).write_text(text)
    assert read_status(shelf.store) is None
    assert status._end_lines(StoreWatch(shelf.store).look())[-1].endswith("no run reports its state")


def test_a_slow_write_does_not_hide_how_a_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, begun, go_on = Store(tmp_path), threading.Event(), threading.Event()
    write = store.write

    def slowly(data: bytes, *parts: str) -> None:
        if json.loads(data)["state"] == "running":
            begun.set()
            assert go_on.wait(60)
        write(data, *parts)

    monkeypatch.setattr(store, "write", slowly)
    file = StatusFile(store, lambda: {"running": [], "complete": True})
    file.every = 0.0
    with file:
        assert begun.wait(60)
        threading.Timer(1, go_on.set).start()
    file.thread.join(60)
    assert (read_status(store) or {})["state"] == "done"


def test_a_run_that_is_gone_is_told_from_one_that_goes_on(tmp_path: Path) -> None:
    shelf = shelf_with_one_missing(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert "may be gone" in end_of(shelf, process=gone.pid)
    assert "may be gone" in end_of(shelf, machine="elsewhere", updated=time.time() - 200)
    assert "about 30 s left" in end_of(shelf, machine="elsewhere")
    assert "interrupted" in end_of(shelf, state="interrupted")


def shelf_with_one_missing(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path)
    for i, level in enumerate((0, 10)):
        directory = shelf.piece("base", 0, "blur", drawn(1, 0.5, i), (level,), store=i == 0)
        shelf.plan["stages"].append({"name": f"piece{i}", "kind": "train", "seed": 0, "directory": directory})
    shelf.write()
    return shelf


def test_many_missing_stages_are_counted_by_their_kind(tmp_path: Path) -> None:
    shelf = shelf_with_one_missing(tmp_path)
    for kind, count in (("train", 3), ("evaluate", 8)):
        shelf.plan["stages"] += [
            {"name": f"{kind}{n}", "kind": kind, "seed": 0, "directory": f"{kind}-{n}"} for n in range(count)
        ]
    shelf.write()
    assert status_lines(shelf.store)[1:] == ["  missing: 4 train, 8 evaluate"]
    shelf.plan["stages"] = shelf.plan["stages"][:11]
    shelf.write()
    assert status_lines(shelf.store)[-1] == "  evaluate5, seed 0: missing"


def end_of(shelf: Shelf, **said: Any) -> str:
    """The last line of a look at a store whose run says this."""
    missing = shelf.plan["stages"][1]["directory"]
    running = {"directory": missing, "worker": "group1/0", "since": time.time() - 60, "epoch": 1, "epochs": 3}
    content = {"state": "running", "host": "h", "machine": machine(), "process": os.getpid(), "updated": time.time(),
               "running": [running], "finished": 1, "failed": 0, "seconds_left": 30, **said}  # fmt: skip
    shelf.store.write(json.dumps(content).encode(), STATUS_FILE)
    seen = StoreWatch(shelf.store).look()
    assert seen.outcome is None and seen.state(shelf.plan["stages"][0]["directory"]) == "done"
    alive = "about" in status._left(seen)
    assert seen.state(missing) == ("running on group1/0, epoch 1/3" if alive else "missing")
    assert any(line.endswith(f"piece1, seed 0: {seen.state(missing)}") for line in status_lines(shelf.store))
    return status._end_lines(seen)[-1]


def test_a_failure_is_told_by_its_last_line_and_ends_the_watch(tmp_path: Path) -> None:
    shelf = shelf_with_one_missing(tmp_path)
    missing = shelf.plan["stages"][1]["directory"]
    shelf.store.write(b"Traceback\n  somewhere\nValueError: no [bold]image[/] of that name\n", missing, "error.txt")
    shelf.store.write(json.dumps({"state": "failed", "host": "h", "process": 1, "updated": 0.0}).encode(), STATUS_FILE)
    lines: list[str] = []
    assert status.watch(shelf.store, 0.01, lines.append) is False
    assert any("piece1, seed 0: failed: ValueError: no [bold]image[/] of that name" in line for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_watching_a_real_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    config, store, cache = tmp_path / "c.yaml", tmp_path / "store", tmp_path / "cache"
    config.write_text(CONFIG)
    driver = started("run", str(config), "--store", str(store), cache=cache)
    wait_for(lambda: list(store.glob("plans/*.json")))
    plain = subprocess.Popen(
        command("status", str(store), "--watch", "0.2"), env=environment(cache), stdout=subprocess.PIPE, text=True
    )
    code, text = on_terminal("status", str(store), "--watch", "0.2", cache=cache, columns=120)
    assert code == 0 and driver.wait(240) == 0
    said, _ = plain.communicate(timeout=120)
    assert plain.returncode == 0
    # On a busy machine Ray may fail to start a group; the driver then starts the next one.
    assert re.search(r"base, seed 0: running on group\d/\d, epoch \d+/30", said), said
    assert said.index("base, seed 0: done") < said.index("vanilla, seed 0: done") and said.rstrip().endswith("complete")
    assert len(set(said.splitlines())) == len(said.splitlines()), "only what changes"
    assert re.search(r"group\d/\d", text) and "waiting: " in text
    assert "device-seconds so far" in text and "complete" in text
    again = fusiondistill("status", str(store), "--watch", cache=cache)
    assert again.returncode == 0 and "complete" in again.stdout


def test_of_two_networks_of_one_name_it_says_which_is_the_tables(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    train = {"name": "fusiondistill", "kind": "train", "seed": 0}
    shelf.plan["stages"] = [{**train, "directory": f"fusiondistill-{'a' * 16}"}]
    shelf.store.write(sealed(shelf.plan), "plans", "x.json")
    assert not [line for line in status_lines(shelf.store) if "the table's" in line]
    for name in ("a" * 16, "b" * 16):
        (tmp_path / f"fusiondistill-{name}").mkdir()
    (tmp_path / f"trial-{'c' * 16}").mkdir()
    assert status_lines(shelf.store)[-3:] == [
        f"  fusiondistill, seed 0: fusiondistill-{'a' * 16} is the table's",
        f"  fusiondistill-{'b' * 16}: of other settings, in no table",
        "fusiondistill prune deletes what is in no table",
    ]
    said = facts(shelf.store, [shelf.plan])["networks"]
    assert said.splitlines() == [
        f"fusiondistill, seed 0: fusiondistill-{'a' * 16}",
        f"fusiondistill, of other settings: fusiondistill-{'b' * 16}",
    ]


def test_a_watch_that_is_started_first_waits_for_the_run(tmp_path: Path) -> None:
    shelf, lines, done = Shelf(tmp_path / "store"), list[str](), list[bool]()
    watching = threading.Thread(target=lambda: done.append(status.watch(shelf.store, 0.01, lines.append)))
    watching.start()
    wait_for(lambda: lines)
    assert "holds no run yet: waiting for one to start" in lines[0]
    shelf.write()
    watching.join(60)
    assert done == [True]
