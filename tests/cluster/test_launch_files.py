"""The `ray up` files through Ray's own loader and schema; image and scripts through the linters of their trade."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusiondistill import __version__

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = ["on_premise.yaml", "aws.yaml", "gcp.yaml"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _prepared(name: str) -> dict[str, Any]:
    """A file as `ray up` sees it: with the defaults of its provider."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_accepts_the_file_and_no_default_of_its_own_slips_in(name: str) -> None:
    config = _prepared(name)
    for commands in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert config[commands] == []  # the providers' defaults install another Ray
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("name", RAY_UP)
def test_access_is_closed(name: str) -> None:
    config = _prepared(name)
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options and "--env RAY_USAGE_STATS_ENABLED=0" in options
    assert config["file_mounts"]["/home/ray/.ray"] == "~/.ray"


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_start_knows_the_options(name: str) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    config = _prepared(name)
    for line in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert {word.split("=")[0] for word in line.split() if word.startswith("--")} <= known


@pytest.mark.parametrize("name", [*RAY_UP, "README.md"])
def test_a_stopped_job_has_the_time_that_a_run_needs(name: str) -> None:
    """For clusters that are already there, the job itself says so."""
    from fusiondistill_runner.driving.interruption import LIMIT

    (seconds,) = re.findall(r'RAY_JOB_STOP_WAIT_TIME_S(?:=|": ")(\d+)', (CLUSTER / name).read_text())
    assert int(seconds) >= LIMIT + 10


def test_on_clouds_gpus_scale_from_zero_and_the_head_does_no_work() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        config = _prepared(name)
        gpu = config["available_node_types"]["gpu"]
        assert gpu["min_workers"] == 0 and gpu["resources"]["GPU"] == 1
        assert gpu["max_workers"] <= config["max_workers"]
        assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
        assert "--num-cpus=0" in " ".join(config["head_start_ray_commands"])


def test_gcp_s_machines_are_scheduled_as_its_api_documents() -> None:
    (node,) = [
        t["node_config"] for t in _prepared("gcp.yaml")["available_node_types"].values() if t["resources"]["CPU"]
    ]
    assert node["scheduling"] == {"preemptible": True, "automaticRestart": False, "onHostMaintenance": "TERMINATE"}


@pytest.mark.parametrize("name", RAY_UP)
def test_the_user_in_the_container_is_known_there(name: str) -> None:
    options = _prepared(name)["docker"]["run_options"]
    assert "--user $(id -u):0" in options and "--volume /etc/passwd:/etc/passwd:ro" in options


def test_on_premise_keeps_all_machines() -> None:
    config = _prepared("on_premise.yaml")
    (node,) = config["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(config["provider"]["worker_ips"])


def test_one_image_one_ray_version() -> None:
    named = set()
    for path in [*CLUSTER.glob("*.yaml"), CLUSTER / "README.md", CLUSTER / "Dockerfile"]:
        named |= set(re.findall(r"\bfusiondistill:[\w.-]+", path.read_text()))
    assert named == {f"fusiondistill:{__version__}"}
    (requirement,) = [one for one in PROJECT["dependencies"] if one.startswith("ray[")]
    low, high = re.fullmatch(r"ray\[[\w,]+\]>=(\d+\.\d+),<(\d+\.\d+)", requirement).groups()  # type: ignore[union-attr]
    assert version("ray").startswith(f"{low}.")
    for path in CLUSTER.iterdir():  # wherever a version of Ray is written, it is this one
        for found in re.findall(r"(?i)\bray(?:version)?\W{0,3}(\d+\.\d+)\.\d+\b", path.read_text()):
            assert found == low, f"{path.name} says Ray {found}, pyproject.toml {low} to below {high}"


def _linter(name: str) -> str:
    """A linter of the dev dependencies, beside this interpreter or anywhere on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: pip install --editable '.[dev]'"
    return found


def test_shellcheck() -> None:
    scripts = sorted(
        str(path) for path in [*CLUSTER.glob("*.sh"), *Path(__file__).parent.glob("*.sh"), *(ROOT / ".ci").iterdir()]
    )
    done = subprocess.run([_linter("shellcheck"), *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint() -> None:
    done = subprocess.run([_linter("hadolint"), str(CLUSTER / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, rest in lines]


def test_the_image_is_built_in_two_stages_and_does_not_run_as_root() -> None:
    instructions = _instructions()
    stages = [rest for word, rest in instructions if word == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    word, base = instructions[0]
    minor = re.fullmatch(r"BASE=python:(3\.\d+)-slim-[a-z]+", base)
    assert word == "ARG" and minor, f"no pinned tag: {base}"
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert int(low) <= int(minor[1].split(".")[1]) < int(high)
    final = instructions[[i for i, (word, _) in enumerate(instructions) if word == "FROM"][1] :]
    users = [rest for word, rest in final if word == "USER"]
    assert users and users[-1] not in ("0", "root")
    assert not any(word == "RUN" for word, _ in final[[word for word, _ in final].index("USER") :])
    assert all(word != "ADD" for word, _ in instructions)
    (entry,) = [rest for word, rest in final if word == "ENTRYPOINT"]
    assert entry.startswith('["')
    variables = " ".join(rest for word, rest in final if word == "ENV")
    assert "RAY_AUTH_MODE=token" in variables
    assert "NVIDIA_VISIBLE_DEVICES=all" in variables  # without it NVIDIA's runtime shows a container no GPU


def test_everything_the_image_copies_is_there_and_passes_the_ignore_file() -> None:
    kept = {line[1:].rstrip("/") for line in _ignore_lines() if line.startswith("!")}
    copied = set()
    for word, rest in _instructions():
        if word == "COPY" and "--from" not in rest:
            copied |= {name.removeprefix("./") for name in rest.split()[:-1]}
    assert {name.partition("/")[0] for name in copied} == kept
    assert all((ROOT / name).exists() for name in copied)
    assert _ignore_lines()[0] == "*"


@pytest.mark.parametrize("verb", ["build", "check"])
@pytest.mark.parametrize("docker", ["missing", "without its daemon"])
def test_without_a_builder_the_image_says_what_to_install(verb: str, docker: str, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "sed"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    if docker == "without its daemon":  # as its client ends there
        (tmp_path / "docker").symlink_to(shutil.which("false") or "false")
    done = subprocess.run(
        [str(CLUSTER / "image.sh"), verb], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("building and checking the image takes docker or buildah: start docker, or install")


def _ignore_lines() -> list[str]:
    text = (CLUSTER / "Dockerfile.dockerignore").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _commands() -> list[list[str]]:
    """The `ray ...` and `fusiondistill ...` commands of the walk-through, in blocks and in lines, as words."""
    text = (CLUSTER / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    found = []
    for line in lines:
        line = re.sub(r"^(\$ |\(umask 077; |sbatch --\S+ --\S+ )", "", line).rstrip(" &)")
        if re.match(r"(ray|fusiondistill|cluster/slurm.sh) [a-z]", line):
            found.append(shlex.split(line, comments=True))
    # What one command hands to another: after --, or as one word.
    inner = [words[words.index("--") + 1 :] for words in found if "--" in words]
    inner += [shlex.split(word)[1:] for words in found for word in words if re.match(r"RAY_ADDRESS=\S+ fusion", word)]
    return [words[: words.index("--")] if "--" in words else words for words in found] + inner


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_the_walk_through_s_commands_exist(words: list[str]) -> None:
    import click
    from ray.scripts.scripts import cli as ray

    from fusiondistill_runner.cli import main

    name, *rest = words
    command: click.Command = {"ray": ray, "fusiondistill": main, "cluster/slurm.sh": main}[name]
    while isinstance(command, click.Group):
        word, *rest = rest
        found = command.get_command(click.Context(command), word)
        assert found, f"{name} has no {word}"
        command = found
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known


def test_the_walk_through_s_commands_are_found() -> None:
    verbs = {" ".join(words[:2]) for words in _commands()}
    assert {"ray job", "ray up", "ray exec", "ray down", "ray get-auth-token", "cluster/slurm.sh run"} <= verbs
    assert {"fusiondistill run", "fusiondistill cluster", "fusiondistill status", "fusiondistill report"} <= verbs
