"""Checks and measures training steps on a CUDA GPU: whether captured steps are right, how fast they are, and why.

``make bench-gpu`` runs it; it takes at most 8 minutes and needs neither Ray nor a data set:
``python -m fusiondistill.bench_gpu --json gpu.json``. Exit code 1: captured steps are wrong; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusiondistill.bench import CLASSES, bench_degradations, picture_set, pictures, turns
from fusiondistill.bench_profile import explained
from fusiondistill.bench_training import KINDS, Kind, bench_training
from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS, degrade, find
from fusiondistill.fitting import Training
from fusiondistill.models import build_model
from fusiondistill.training import Loop

__all__ = ["main"]

Row = dict[str, Any]
MINUTES = 6.0
_REPEATS = 5
_USUAL = 25
"""How many times as fast as the usual way a step is to be."""
_KINDS = {
    "base": KINDS["clean"],
    "expert": Kind("each-taught", ("blur",), taught=True),
    "FusionDistill": KINDS["distillation"],
}
_MARKS = {
    ("base", 128): 40_000, ("base", 512): 60_000, ("FusionDistill", 128): 30_000,
    "jpeg": 500_000, "blur": 2_000_000, "noise": 2_000_000, "saltpepper": 2_000_000,
}  # fmt: skip
"""Images a second that are to be reached on an H100-class GPU."""


def main(given: Sequence[str] | None = None) -> int:
    """Check and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fusiondistill.bench_gpu", description="See the module.")
    parser.add_argument("--json", metavar="FILE", help="also write the rows to a file")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="begin nothing new after so many")
    parser.add_argument("--expert", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if not torch.cuda.is_available():
        print("bench-gpu: torch finds no CUDA GPU here, so that nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    if options.expert:
        return _one_of_four(device, options.expert)
    ends = time.monotonic() + 60 * options.minutes
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    problems = checks(device)
    print("\n".join(problems) or "captured steps train as steps one by one do; degradations give the CPU's pixels")
    rows: list[Row] = []
    for part in () if problems else (steps, degradations, side_by_side, compared):
        if time.monotonic() > ends:
            print(f"left out, the time is over: {part.__name__}")
            continue
        try:
            for row in part(device):
                rows.append(row)
                print(_line(row), flush=True)
        except Exception as error:  # the other parts are worth having
            problems.append(f"{part.__name__}: {type(error).__name__}: {error}")
            print(problems[-1], flush=True)
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if problems else 0


def _line(row: Row) -> str:
    reference = f", {row['ratio']:.1f}x of {row['reference']:,.0f}" if row["reference"] else ""
    return f"{row['name']}: {row['ours']:,.0f} {row['unit']}{reference}; {row['limit']}"


def _row(name: str, ours: float, reference: float | None, limit: str, mark: int | None = None) -> Row:
    if mark:
        limit = f"mark {mark:,} {'reached' if ours >= mark else 'missed'}; {limit}"
    ratio = round(ours / reference, 2) if reference else None
    rounded = reference and round(reference)
    return {"name": name, "ours": round(ours), "reference": rounded, "ratio": ratio, "unit": "images/s", "limit": limit}


def loop_of(
    kind: str,
    device: torch.device,
    *,
    batch: int = 128,
    steps: int = 50,
    precision: str = "bf16",
    capture: bool = True,
    model: str = "cifar_resnet56",
    optimizer: str = "",
    more: int = 0,
    lr: float = 1e-6,
) -> Loop:
    """A training on made-up images with the paper's recipe, at a learning rate that changes little.

    Args:
        more: so many images beyond whole steps, a short last batch.
    """
    degradations = _KINDS[kind].degradations
    recipe = _KINDS[kind].recipe(batch, precision, True, lr=lr, **({"name": optimizer} if optimizer else {}))
    images = picture_set(batch * steps + more, 32)
    training = Training(recipe, images, degradations=degradations, flip=True, device=device)
    teachers = [_network(model, 1 + i) for i in range(len(degradations))] if _KINDS[kind].taught else []
    return Loop(_network(model, 0), recipe, training.pipeline(), teachers, _note, capture=capture)


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, len(CLASSES))


def checks(device: torch.device) -> list[str]:
    """The faults of captured steps and of degradations; nothing if there are none."""
    problems = []
    for kind, optimizer, precision in (
        ("base", "sgd", "fp32"), ("base", "adamw", "bf16"), ("FusionDistill", "radam", "fp32"),
        ("FusionDistill", "radam", "bf16"),
    ):  # fmt: skip
        made: dict[str, Any] = {"batch": 64, "steps": 6, "more": 10, "precision": precision, "model": "cifar_resnet20"}
        plain, graphs = (
            loop_of(kind, device, capture=way, optimizer=optimizer, lr=1e-3, **made) for way in (False, True)
        )
        close, name = (0.005 if precision == "fp32" else 0.05), f"{kind}, {optimizer}, {precision}"
        for epoch in range(3):
            one, other = plain.epoch(epoch), graphs.epoch(epoch)
            if graphs.captured is None:
                problems.append(f"{name}: was not captured")
            elif abs(one["loss"] - other["loss"]) > close * (epoch + 1) * abs(one["loss"]):
                problems.append(f"{name}, epoch {epoch + 1}: loss {other['loss']:.6g} instead of {one['loss']:.6g}")
        plain.close()
        graphs.close()
    asking = loop_of("base", device, batch=64, steps=1, model="cifar_resnet8")
    asking.model.register_forward_pre_hook(_ask)
    if not asking.epoch(0)["images"] or asking.captured is not None:
        problems.append("a network that reads values back was captured")
    asking.close()
    images = pictures(512, 32)
    for degradation in DEGRADATIONS:
        known = find(degradation).levels
        levels = torch.arange(512) % len(known) + known[0]
        here = degrade(images, degradation, levels, seed=3)
        there = degrade(images.to(device), degradation, levels.to(device), seed=3)
        if not torch.equal(here, there.cpu()):
            problems.append(f"{degradation}: not the CPU's pixels")
    return problems


def _ask(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    """Read a value back."""
    given[0].sum().item()


def steps(device: torch.device) -> Iterator[Row]:
    """Whole steps as graphs, beside the same steps one by one."""
    for kind, batch in (("base", 128), ("base", 512), ("FusionDistill", 128)):
        for precision in ("bf16", "fp32"):
            made: dict[str, Any] = {"batch": batch, "precision": precision, "steps": 100 if batch == 128 else 50}
            graphs, plain = (loop_of(kind, device, capture=way, **made) for way in (True, False))
            ours, slow = turns([partial(_images, loop) for loop in (graphs, plain)], _REPEATS, device)
            why = explained(partial(_epoch, graphs), graphs.pipeline.steps)
            spread = f"n = {len(ours)}, from {min(ours):,.0f} to {max(ours):,.0f}"
            yield _row(
                f"{kind}, ResNet-56, batch {batch}, {precision}, captured beside one by one",
                statistics.median(ours), statistics.median(slow), f"{spread}; {why}", _MARKS[kind, batch],
            )  # fmt: skip
            graphs.close()
            plain.close()


def _images(loop: Loop) -> float:
    """Train an epoch, and return how many images that were."""
    return loop.epoch(0)["images"]


def _epoch(loop: Loop) -> None:
    """The steps of an epoch without what comes before and after them."""
    for step in loop.steps(0):
        step()


def degradations(device: torch.device, batch: int = 2048) -> Iterator[Row]:
    """Degradations as a call, and as part of a graph, as a captured step has them."""
    images = pictures(batch, 32).to(device)
    for found in bench_degradations("cuda", sizes=(32,), batch=batch, degradations=PAPER_DEGRADATIONS):
        name = found["name"].split()[0]
        yield {**found, "name": f"{found['name']}, batch {batch}, a call beside imagedegrade on one core"}
        known = find(name).levels
        levels = torch.arange(batch, device=device) % len(known) + known[0]

        def call(name: str = name, levels: torch.Tensor = levels) -> None:
            degrade(images, name, levels, seed=0)

        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()

        def replay(graph: torch.cuda.CUDAGraph = graph) -> float:
            for _ in range(20):
                graph.replay()
            return 20.0 * batch

        ours = statistics.median(turns([replay], _REPEATS, device)[0])
        yield _row(f"{name} 32x32, batch {batch}, in a graph", ours, None, explained(replay, 20), _MARKS[name])


def side_by_side(device: torch.device) -> Iterator[Row]:
    """Four experts on one GPU: four graphs on four streams of a process, and four processes, beside one expert."""
    loops = [loop_of("expert", device, steps=100) for _ in range(4)]
    for loop in loops:
        loop.prepare()
    alone = statistics.median(turns([partial(_images, loops[0])], _REPEATS, device)[0])
    streams = [torch.cuda.Stream() for _ in loops]

    def together() -> float:
        for loop in loops:
            loop.clear()
        each = [loop.steps(0) for loop in loops]
        waiting = [next(one) for one in each]  # writes what the epoch reads, on the current stream
        torch.cuda.synchronize()
        while waiting:
            for stream, step in zip(streams, waiting, strict=True):
                with torch.cuda.stream(stream):
                    step()
            waiting = [step for one in each for step in islice(one, 1)]
        return float(sum(loop.pipeline.steps * loop.recipe.batch_size for loop in loops))

    said = "together, beside one alone; four times as many images in less than twice the time is 2x"
    yield _row("four experts, four streams", statistics.median(turns([together], _REPEATS, device)[0]), alone, said)
    for loop in loops:
        loop.close()
    yield _row("four experts, four processes", _four_processes(), alone, said)


def compared(device: torch.device) -> Iterator[Row]:
    """Captured steps beside the bare network and the usual way, see :mod:`fusiondistill.bench_training`."""
    for row in bench_training(str(device), steps=50, kinds=("clean", "distillation"), repeats=3, compiled=False):
        reached = "reached" if row["ratio"] >= _USUAL else "missed"
        mark = f"mark {_USUAL}x {reached}; " if row["name"].endswith("usual way") else ""
        yield {**row, "limit": mark + row["limit"]}


def _four_processes(seconds: float = 8.0) -> float:
    command = [sys.executable, "-m", "fusiondistill.bench_gpu", "--expert", str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]  # fmt: skip
    try:
        for worker in workers:
            assert worker.stdout and worker.stdout.readline() == "ready\n", "a worker did not start"
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(float(worker.communicate(timeout=60)[0]) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


def _one_of_four(device: torch.device, seconds: float) -> int:
    """Train an expert for so long once a line comes, and print images a second."""
    loop = loop_of("expert", device, steps=100)
    loop.epoch(0)
    torch.cuda.synchronize()
    print("ready", flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0.0
    while time.perf_counter() - began < seconds:
        done += _images(loop)
    print(done / (time.perf_counter() - began), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
