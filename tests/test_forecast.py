"""What a plan would take on a cluster that is not there: times, clusters, bytes, and the published tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from fusiondistill import build_model, save_checkpoint
from fusiondistill.checkpoints import new_attempt
from fusiondistill.config import Resources
from fusiondistill.config_file import parse
from fusiondistill.muon import Muon
from fusiondistill.plugins import load_plugins, read_plugins
from fusiondistill.progress import Progress
from fusiondistill.recipe import MOMENTUM
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.forecasting.assumptions import Times, parse_cluster, read_times
from fusiondistill_runner.forecasting.estimates import Estimates, measured
from fusiondistill_runner.forecasting.forecast import Forecast, clock, forecast, jobs_of, wished
from fusiondistill_runner.forecasting.paper_schedule import (
    SPEEDS,
    bench_schedule,
    paper_stages,
    parse_speeds,
    seconds_at,
)
from fusiondistill_runner.forecasting.paths import critical_path
from fusiondistill_runner.forecasting.simulation import simulate
from fusiondistill_runner.forecasting.traffic import network_of, traffic, weight_bytes
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.rows import Plan
from fusiondistill_runner.planning.specs import JUDGING, EvaluateSpec, TrainSpec
from fusiondistill_runner.planning.stage import Stage, priorities
from fusiondistill_runner.working.train import pack
from running import TINY

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
SEARCH = "search={trials: 4, epochs: 5, scheduler: none, space: {loss.kd: {uniform: [0, 1]}}}"
KINDS = ("train=100", "fuse=5", "evaluate=3", "search=60")


def plan(*overrides: str) -> Plan:
    settings = ("model.name=cifar_resnet8", *overrides)
    return build(parse("experiment: x\n", overrides=settings), "f" * 64, FOUR.__getitem__, test_images=400)


def named(content: Plan, name: str, seed: int = 0) -> Stage:
    return next(s for s in content.stages if (s.name, s.seed) == (name, seed))


@pytest.mark.parametrize(
    ("text", "resources", "workers"),
    [
        ("workers=5", {}, 5),
        ("nodes=30,gpus=8", {}, 240),
        ("nodes=30,gpus=8", {"gpus_per_worker": 0.25}, 960),
        ("nodes=30,gpus=8,cpus=16", {"cpus_per_worker": 4}, 120),
        ("nodes=3,cpus=16", {"cpus_per_worker": 5}, 9),
        ("gpus=2", {}, 2),
        ("nodes=30,gpus=8", {"workers": 10}, 10),
    ],
)
def test_a_cluster_holds_what_the_resources_let_it_hold(text: str, resources: dict[str, float], workers: int) -> None:
    assert parse_cluster(text, Resources.model_validate(resources)).slots == workers


@pytest.mark.parametrize(
    "text",
    ["8", "nodes=3", "workers=0", "nodes=0,gpus=1", "workers=2,gpus=1", "gpus=-1", "nodes=2,nodes=3", "gpu=1", ""],
)
def test_a_cluster_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"--simulate {text}"):
        parse_cluster(text, Resources())
    with pytest.raises(ValueError, match="no node has"):
        parse_cluster("nodes=2,cpus=1", Resources(cpus_per_worker=2))


def test_the_closest_time_counts_and_what_is_given_goes_before_what_was_measured(tmp_path: Path) -> None:
    content = plan()
    file = tmp_path / "times.yaml"
    file.write_text("train: 100\nbase: 70\ndigits/base: 50\ndigits/train: 90\n")
    given = read_times([str(file), "evaluate=2.5"], content.stages)
    estimates = Estimates()
    for name in ("base", "fused"):
        estimates.learn(named(content, name), 1000.0)
    times = Times(given, estimates)
    assert times.of(named(content, "base")) == (50.0, True)
    assert times.of(named(content, "scratch")) == (90.0, True)
    assert times.of(named(content, "evaluate-base-jpeg")) == (2.5, True)
    assert times.of(named(content, "fused")) == (pytest.approx(1000.0), False)
    assert Times(read_times(["base=60", "base=61"], content.stages)).of(named(content, "base")) == (61.0, True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("traim=3", "no stage or kind is called 'traim'; there are: base, train"),
        ("train=soon", "train: 'soon' is no number of seconds"),
        ("train=-1", "is no number"),
        ("train=inf", "is no number"),
        ("nowhere.yaml", "no such file"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(source: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_times([source], plan().stages)


def test_files_of_times_that_are_none(tmp_path: Path) -> None:
    for text in ("- 1\n", "{", "3"):
        (tmp_path / "t.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"t\.yaml"):
            read_times([str(tmp_path / "t.yaml")], plan().stages)


def test_what_is_unknown_is_named_and_nothing_is_simulated() -> None:
    content = plan()
    lines = Forecast.of(content.stages, [parse_cluster("workers=2", Resources())], Times({"train": 9.0}), {}).lines()
    assert lines[0] == "no simulation: some times are unknown" and len(lines) == 4
    assert any(
        "1 stage of kind fuse (fused): give --times fuse=SECONDS, or run one seed first" in line for line in lines
    )
    assert Forecast.of([], [], Times(), {}).lines() == []


def test_jobs_carry_the_drivers_order_and_stored_inputs_are_no_needs() -> None:
    content = plan(SEARCH)
    missing = [s for s in content.stages if s.name != "base" and s.kind not in JUDGING]
    jobs = {job.key: job for job in jobs_of(missing, {s.digest: 10.0 for s in missing})}
    order = priorities(missing)
    assert all(job.priority == order[key] for key, job in jobs.items())
    assert jobs[named(content, "search-fusiondistill").digest].trials == 4
    first = simulate(list(jobs.values()), 1).runs[0].job
    assert first.key == max((s.digest for s in missing if not set(jobs) & {n.digest for n in s.inputs.values()}),
                            key=order.__getitem__)  # fmt: skip
    wide = plan("resources.workers_per_run=4")
    assert {
        job.workers for job in jobs_of(wide.stages, {s.digest: 1.0 for s in wide.stages}) if job.kind == "train"
    } == {4}


def test_bytes_are_those_of_the_network_with_its_parameters() -> None:
    load_plugins(read_plugins([str(Path(__file__).parent / "plugins" / "tiny.py")]))
    for width in (8, 24):
        stage = named(plan("model.name=tiny", f"model.width={width}", "methods=[base]"), "base")
        state = build_model("tiny", 10, width=width).state_dict()
        assert weight_bytes(stage) == sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def test_bytes_by_hand_and_against_what_is_really_written(tmp_path: Path) -> None:
    content = plan(SEARCH, "base.epochs=7", "expert.epochs=3")
    size = weight_bytes(named(content, "base"))
    network = build_model("cifar_resnet8", 10)
    save_checkpoint(tmp_path / "a", network.state_dict(), {})
    (file,) = (tmp_path / "a").glob("*.safetensors")
    assert file.stat().st_size == pytest.approx(size, rel=0.05)

    def of(name: str) -> tuple[float, float, float]:
        moved = traffic([named(content, name)], lambda stage: 100.0)
        return moved.read, moved.results, moved.progress

    assert of("base") == (0, 100, 7 * 300)
    assert of("expert-jpeg") == (200, 100, 3 * 400)
    assert of("fused") == (500, 100, 0)
    assert of("fusiondistill") == (500, 100, 100 * 400)
    assert of("search-fusiondistill") == (4 * 500, 4 * 100, 4 * 5 * 400)
    grid = "{trials: 2, seeds: 3, space: {fusion.method: {grid: [median, ties]}, loss.kd: {uniform: [0, 1]}}}"
    content = plan(f"search={grid}", "search.scheduler=none")
    assert of("search-fusiondistill") == (5 * 3 * 500, 5 * 3 * 100, 5 * 3 * 100 * 400)
    assert of("fusiondistill-searched") == (500, 100, 100 * 400)
    seconds = {s.digest: 10.0 for s in content.stages}
    (job,) = (job for job in jobs_of(content.stages, seconds) if job.kind == "search")
    assert (job.trials, job.shortest) == (5, 2.0)
    assert of("evaluate-ensemble-blur") == (400, 2 * 10_000 * 53, 0)

    optimizers = {
        "sgd": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        "muon": Muon(network.parameters(), 0.01),
        "radam": torch.optim.RAdam(network.parameters()),
    }
    for name, optimizer in optimizers.items():
        moments = 1 if name in MOMENTUM else 2
        network(torch.zeros(2, 3, 16, 16)).sum().backward()
        optimizer.step()
        copies = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for _ in range(2)]
        written = len(pack(Progress(1, copies[0], optimizer.state_dict(), {}, copies[1])))
        assert written == pytest.approx((2 + moments) * size, rel=0.1)


def test_plan_simulates_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    clusters = ("--simulate", "workers=1", "--simulate", "nodes=2,gpus=4")
    times = [part for pair in KINDS for part in ("--times", pair)]

    def planned(*options: str) -> Result:
        return CliRunner().invoke(main, ["plan", str(config), "--store", str(tmp_path / "store"), *options])

    done = planned(*clusters, *times)
    assert done.exit_code == 0 and "71 stages, times 71 assumed (--times), 0 measured" in done.output
    spans = re.findall(r"^  (.*): (\d+) min (\d+) s, 0.345 device-hours, utilisation (\d+)%", done.output, re.M)
    assert [label for label, *_ in spans] == ["1 worker", "2 nodes with 4 GPUs, 8 workers"]
    seconds = [int(minutes) * 60 + int(rest) for _, minutes, rest, _ in spans]
    work = 10 * 100 + 5 + (48 + 11) * 3 + 60
    assert work < seconds[0] < work + 60 and seconds[1] < seconds[0] / 2
    assert "critical path 5 min 28 s" in done.output and "base 1 min 40 s -> expert-" in done.output
    assert "through the store: about" in done.output and not (tmp_path / "store").exists()
    unknown = planned(*clusters, "--no-measure")
    assert unknown.exit_code == 0 and "give --times train=SECONDS" in unknown.output
    for bad in (("--simulate", "8"), ("--times", "train=1"), (*clusters, "--times", "x=1")):
        refused = planned(*bad)
        assert refused.exit_code == 2 and "error: --" in refused.output


def test_one_seed_that_was_run_tells_what_the_others_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    store = str(tmp_path / "store")
    done = prepare(str(config), store=store)
    for stage in done.plan.stages:
        facts = {"seconds": 20.0, "training_seconds": 20.0}
        done.store.commit(stage, {"model.safetensors": b"w" * 1000}, facts, new_attempt())
    more = prepare(str(config), ["seeds=[0, 1]"], store).looked_up()
    assert len(more.missing) == 71
    lines = forecast(more, wished(more, ["workers=1"], []), measured(more.store)).lines()
    assert "71 stages, times measured" in lines[0]
    assert lines[1].startswith("  1 worker: 23 min 4") and lines[3].startswith("  through the store: about 1")
    assert "kB of it progress" in lines[3]  # so small are the weights that are stored
    assert (
        forecast(more, wished(more, ["workers=1"], ["train=40"]), measured(more.store))
        .lines()[0]
        .count("10 assumed (--times), 61 measured")
        == 1
    )
    left = done.looked_up()
    assert forecast(left, wished(left, ["workers=1"], []), measured(done.store)).lines() == []


def test_the_paper_sweep_has_every_published_table() -> None:
    stages = paper_stages()
    assert {(s.spec.data.name, s.seed) for s in stages if isinstance(s.spec, TrainSpec)} == {
        (data, seed) for data in ("cifar10", "cifar100", "tiny_imagenet") for seed in range(5)
    }
    methods = {s.name.split("-")[1] for s in stages if isinstance(s.spec, EvaluateSpec)}
    assert {"ensemble", "scratch", "vanilla", "modelsoups", "fusing", "fusiondistill"} < methods
    decay = {s.spec.data.name: s.spec.recipe.optimizer.weight_decay
             for s in stages if s.name == "base" and isinstance(s.spec, TrainSpec)}  # fmt: skip
    assert decay == {"cifar10": 1e-4, "cifar100": 5e-4, "tiny_imagenet": 5e-4}
    with pytest.raises(ValueError, match="without a search"):
        paper_stages("quickstart")


def test_seconds_at_a_speed_are_those_of_the_readme() -> None:
    """150 million training images a seed at 170 a second, with teachers and evaluation about 12 days."""
    ours = [s for s in paper_stages() if s.seed == 0 and network_of(s)[1] == "cifar100"]
    seconds = {kind: sum(seconds_at(s, {32: 1.0}) for s in ours if s.kind == kind) for kind in ("train", "evaluate")}
    # 150 million, a third of 40 million taught ones, and the choice of the epoch on the test split
    judged = (200 + 4 * 100 + 2 * 800 + 2 * 400) * 10_000 / 3
    assert seconds["train"] == pytest.approx(150e6 + 40e6 / 3 + judged)
    assert seconds["evaluate"] == pytest.approx(229 * 10_000 * 14 / 3)
    assert (seconds["train"] - judged + seconds["evaluate"]) / 170 / 86400 == pytest.approx(12, abs=0.3)


def test_bench_schedule_falls_until_the_longest_chain_and_says_what_it_assumes(tmp_path: Path) -> None:
    said: list[str] = []
    rows = bench_schedule(said.append, devices=(1, 8, 32, 64))
    stages = paper_stages()
    jobs = jobs_of(stages, {s.digest: seconds_at(s, SPEEDS) for s in stages})
    path = sum(job.shortest for job in critical_path(jobs)) / 3600
    hours = [row["ours"] for row in rows if row["name"].endswith("first come")]
    assert hours == sorted(hours, reverse=True) and hours[-1] == pytest.approx(path, rel=0.01)
    limits = [row["limit"] for row in rows if "shortest" in row["name"]]
    assert limits == ["devices", "devices", "critical path", "critical path"]
    assert all(set(row) == {"name", "ours", "reference", "ratio", "unit", "limit"} for row in rows)
    assert "simulated; taken to be so: a device does 8,500 training images/s at 32x32" in said[0]
    assert any(line.startswith("critical path") for line in said)
    doubled: list[str] = []
    fast = bench_schedule(doubled.append, parse_speeds(["32=17000", "64=8000"]), devices=(1,))
    assert fast[0]["ours"] == pytest.approx(rows[0]["ours"] / 2, rel=0.01)
    refused = CliRunner().invoke(main, ["bench", "schedule", "--speed", "16=3"])
    assert refused.exit_code == 2 and "--speed 16=3" in refused.output
    assert json.dumps(rows)


def test_times_are_written_as_people_say_them() -> None:
    assert [clock(s) for s in (0.444, 12.34, 59.99, 60, 2184, 25_000)] == [
        "0.444 s", "12.3 s", "60 s", "1 min 0 s", "36 min 24 s", "6 h 56 min",
    ]  # fmt: skip
