"""The manifests of cluster/ against the fields that KubeRay and Kubernetes document, and against each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

from fusiondistill_runner.driving.interruption import LIMIT

CLUSTER = Path(__file__).parents[2] / "cluster"
TYPES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "kubernetes_fields.yaml").read_text())
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGT]i?)?")


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return document


def _problems(value: Any, kind: Any, where: str) -> Iterator[str]:
    """What of a value is not of a type of the fixture."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{where}: no list"
            return
        for i, item in enumerate(value):
            yield from _problems(item, kind[0], f"{where}[{i}]")
    elif kind in TYPES and not (isinstance(value, str) and value == kind):
        yield from _object_problems(value, kind, where)
    elif kind == "map":
        if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
            yield f"{where}: no map of strings to strings: {value}"
    elif kind in ("string", "integer", "boolean", "number"):
        python = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}[kind]
        if not isinstance(value, python) or (kind != "boolean" and isinstance(value, bool)):
            yield f"{where}: no {kind}: {value!r}"
    elif kind != "any" and value not in kind.split("|"):
        yield f"{where}: {value!r} is none of {kind}"


def _object_problems(value: Any, kind: str, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no {kind}"
        return
    fields = {name.rstrip("!"): field for name, field in TYPES[kind].items()}
    for name, item in value.items():
        if name not in fields:
            yield f"{where}.{name}: {kind} has no such field"
        else:
            yield from _problems(item, fields[name], f"{where}.{name}")
    for name in TYPES[kind]:
        if name.endswith("!") and name[:-1] not in value:
            yield f"{where}: {kind} needs {name[:-1]}"


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml", "storage.yaml"])
def test_only_fields_that_exist(name: str) -> None:
    document = _read(name)
    assert list(_problems(document, document["kind"], name)) == []


def test_the_checker_finds_what_is_wrong() -> None:
    document = _read("raycluster.yaml")
    head = document["spec"]["headGroupSpec"]
    head["rayStartParams"]["num-cpus"] = 0  # a number where KubeRay wants a string
    head["template"]["spec"]["containers"][0]["imagepullPolicy"] = "Always"
    head["serviceType"] = "Loadbalancer"
    del document["spec"]["workerGroupSpecs"][1]["groupName"]
    found = "\n".join(_problems(document, "RayCluster", ""))
    for part in ("num-cpus", "imagepullPolicy", "Loadbalancer", "needs groupName"):
        assert part in found


def _specs() -> dict[str, dict[str, Any]]:
    job = _read("rayjob.yaml")
    return {"rayjob.yaml": job["spec"]["rayClusterSpec"], "raycluster.yaml": _read("raycluster.yaml")["spec"]}


def _pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_a_job_s_cluster_is_the_cluster() -> None:
    job, cluster = _specs().values()
    assert job == cluster


def test_the_ray_version_is_the_pinned_one() -> None:
    for spec in _specs().values():
        assert spec["rayVersion"].split(".")[:2] == version("ray").split(".")[:2]


def _gib(amount: str) -> float:
    return float(amount.removesuffix("Gi"))


def test_pods_are_consistent() -> None:
    claim = _read("storage.yaml")["metadata"]["name"]
    for spec in _specs().values():
        groups = [group["groupName"] for group in spec["workerGroupSpecs"]]
        assert len(set(groups)) == len(groups)
        for pod in _pods(spec):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert all(sum(key != "name" for key in volume) == 1 for volume in volumes.values())
            assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
            (container,) = pod["containers"]
            assert [mount["name"] for mount in container["volumeMounts"]] == list(volumes)
            mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            shm = mounted["/dev/shm"]["emptyDir"]
            assert shm["medium"] == "Memory"
            environment = {variable["name"]: variable["value"] for variable in container["env"]}
            assert environment["FUSIONDISTILL_CACHE"] in mounted
            assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
            assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) >= LIMIT + 10  # `ray job stop` kills after it
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]  # Ray takes limits for what it has
            assert all(QUANTITY.fullmatch(amount) for amount in resources["limits"].values())
            # In a smaller one Ray puts its object store on the disk.
            store = DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * _gib(resources["limits"]["memory"])
            assert _gib(shm["sizeLimit"]) >= store


def test_access_is_closed() -> None:
    for spec in _specs().values():
        assert spec["authOptions"]["mode"] == "token"
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        for pod in _pods(spec):
            assert pod["securityContext"]["runAsNonRoot"]
            assert not pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"]


def test_gpus_scale_from_zero() -> None:
    for spec in _specs().values():
        assert spec["enableInTreeAutoscaling"]
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        (gpu,) = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu"]
        assert gpu["minReplicas"] == gpu["replicas"] == 0 < gpu["maxReplicas"]
        assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_job_cleans_up_and_its_command_is_ours() -> None:
    spec = _read("rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["backoffLimit"] > 0
    program, verb, *arguments = spec["entrypoint"].split()
    assert (program, verb) == ("fusiondistill", "run")
    from fusiondistill import config_file

    overrides = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--set"]
    config = config_file.load(arguments[0], overrides)
    gpu = spec["rayClusterSpec"]["workerGroupSpecs"][1]
    assert config.resources.workers == gpu["maxReplicas"]
    assert config.resources.cpus_per_worker == float(
        gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
    )
    store = arguments[arguments.index("--store") + 1]
    assert any(
        store.startswith(f"{mount['mountPath']}/")
        for mount in _pods(spec["rayClusterSpec"])[0]["containers"][0]["volumeMounts"]
    )
