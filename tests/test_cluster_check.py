"""What `cluster check` makes of the facts, and what it says of a real local Ray."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import forking
from fusiondistill.code import code_digest
from fusiondistill.config import Resources
from fusiondistill.data import DataError
from fusiondistill_runner import runner
from fusiondistill_runner.nodes.check import Facts, NodeFacts, Wanted, asked_of, complaints, lines
from fusiondistill_runner.nodes.cluster import refuse_fleeting
from fusiondistill_runner.nodes.growing import patience
from fusiondistill_runner.nodes.node_checks import Needs
from fusiondistill_runner.nodes.probe import look, versions
from fusiondistill_runner.planning.specs import DataSpec
from fusiondistill_runner.working.context import DataSet
from fusiondistill_runner.working.data import load_data
from running import TINY, fusiondistill

HERE = {"versions": {"python": "3.11.7", "torch": "2.15.0", "fusiondistill": "0.1.0"}, "code": "aa"}
WANTED = Wanted(
    store="/shared/runs",
    needs=Needs(data=(DataSet("cifar10", None, "f1"),), folders=("/shared/CIFAR-10-C",)),
    resources=Resources(cpus_per_worker=4, gpus_per_worker=1),
)
FOUND: dict[str, Any] = {
    "host": "n1",
    "versions": HERE["versions"],
    "code": "aa",
    "errors": {},
    "token": True,
    "gpus": ["H100"],
    "cuda_built": "13.0",
    "shm_bytes": 8 * 2**30,
    "object_rate": 1e9,
    "cache": "/cache",
    "cache_free": 2**34,
    "store_seen": True,
    "store_write": 1e8,
    "store_read": 1e9,
    "data": {"cifar10": "f1"},
    "missing_folders": [],
}
OFFER = {"CPU": 4.0, "GPU": 1.0, "memory": 2**34, "object_store_memory": 4 * 2**30}


def facts(change: Callable[[dict[str, Any]], Any] = lambda found: None, **offer: float) -> Facts:
    """A head without work and one node, of which something was changed."""
    found = copy.deepcopy(FOUND)
    change(found)
    head = NodeFacts(
        "10.0.0.1", {"CPU": 0.0}, {**copy.deepcopy(FOUND), "gpus": [], "data": {}, "missing_folders": ["x"]}
    )
    return Facts("10.0.0.1:6379", (head, NodeFacts("10.0.0.2", {**OFFER, **offer}, found)), HERE)


def test_a_cluster_that_fits() -> None:
    assert complaints(facts(), WANTED) == []  # what only workers need is not asked of a head that does no work
    text = "\n".join(lines(facts(), WANTED))
    assert "2 nodes at 10.0.0.1:6379; token authentication on" in text
    assert "writes 100 MB/s, reads 1,000 MB/s" in text and "H100" in text


def test_a_build_for_the_cpu_beside_one_for_cuda_fits() -> None:
    assert complaints(facts(lambda f: f["versions"].update(torch="2.15.0+cu130")), WANTED) == []


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "version": (lambda f: f["versions"].update(torch="2.14.0"), "has torch 2.14.0, here it is 2.15.0"),
    "not installed": (lambda f: f["versions"].pop("fusiondistill"), "fusiondistill is not installed"),
    "other code": (lambda f: f.update(code="bb"), "code is not the one here"),
    "broken torch": (lambda f: f["errors"].update(torch="ImportError: libcudart"), "torch cannot be used (ImportError"),
    "no driver": (lambda f: f.update(gpus=[]), "Ray counts 1 GPUs, torch sees 0: check the driver"),
    "torch for the CPU": (lambda f: f.update(gpus=[], cuda_built=None), "its torch is built without CUDA"),
    "small shm": (lambda f: f.update(shm_bytes=2**26), "/dev/shm has 0.1 GiB, the object store 4.0"),
    "store unseen": (lambda f: f.update(store_seen=False), "does not see the store /shared/runs"),
    "store read-only": (
        lambda f: f["errors"].update(store="OSError: read-only"),
        "cannot be used (OSError: read-only)",
    ),
    "no data": (lambda f: f["errors"].update({"data cifar10": "DataError: gone"}), "cifar10 is not there: DataError"),
    "other data": (lambda f: f.update(data={"cifar10": "f2"}), "cifar10 is another one than here"),
    "broken plugin": (
        lambda f: f.update(errors={"plugins": "PluginError: plugin mine.py, line 3 (import nowhere)"}, data={}),
        "a plugin cannot run there (PluginError: plugin mine.py, line 3 (import nowhere)): install there what",
    ),
    "no cache": (lambda f: f["errors"].update(cache="DataError: full"), "no cache for decoded data (DataError: full)"),
    "no folder": (lambda f: f.update(missing_folders=["/c"]), "has no folder /c"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_on_a_node_is_named(case: str) -> None:
    change, text = CASES[case]
    (found,) = complaints(facts(change), WANTED)
    assert found.startswith("node 10.0.0.2: ") and text in found


def test_a_node_that_asks_for_no_token() -> None:
    (found,) = complaints(facts(lambda f: f.update(token=False)), WANTED)
    assert found.startswith("no token is asked for on 10.0.0.2") and "RAY_AUTH_MODE=token" in found


def test_a_node_that_cannot_be_asked() -> None:
    whole = facts()
    silent = replace(whole, nodes=(whole.nodes[0], replace(whole.nodes[1], found=None, error="no answer within 600 s")))
    (found,) = complaints(silent, WANTED)
    assert "node 10.0.0.2: cannot be asked (no answer within 600 s)" in found
    assert any("10.0.0.2" in line for line in lines(silent, WANTED))


def test_too_little_room() -> None:
    (found,) = complaints(facts(CPU=2.0), WANTED)
    assert "a worker needs 4 CPU and 1 GPU, which no node has" in found
    parallel = replace(WANTED, resources=Resources(cpus_per_worker=4, gpus_per_worker=1, workers_per_run=2))
    (found,) = complaints(facts(), parallel)
    assert "workers_per_run is 2, but only 1 worker fits" in found


def test_the_probe_finds_this_machine_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("")
    asked = {
        "store": str(tmp_path),
        "marker": "marker",
        "data": [("digits", "digits", None, {})],
        "folders": [str(tmp_path)],
    }
    found = look(asked)
    assert found["errors"] == {} and found["missing_folders"] == [] and found["store_seen"]
    assert found["store_write"] > 0 and found["store_read"] > 0 and len(found["data"]["digits"]) == 64
    assert found["versions"] == versions() and found["code"] == code_digest()
    assert [path.name for path in tmp_path.iterdir()] == ["marker"]


def test_the_probe_notes_what_fails(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    found = look({"store": str(tmp_path), "marker": "marker", "data": [("f", "folder", gone, {})], "folders": [gone]})
    assert not found["store_seen"] and found["missing_folders"] == [gone]
    assert "gone" in found["errors"]["data f"]


STRIPES = f"""
experiment: striped
data: {{name: stripes, side: 12}}
model: {{name: cifar_resnet8}}
methods: [base]
plugins: [{Path(__file__).parent / "plugins" / "stripes.py"}]
"""


def test_the_probe_finds_the_data_of_a_plugin_with_their_parameters(tmp_path: Path) -> None:
    config = tmp_path / "striped.yaml"
    config.write_text(STRIPES)
    wanted = runner._wanted(str(config), (), str(tmp_path / "store"))
    (data,) = wanted.needs.data
    assert data.label == "stripes (side 12, count 40)"
    asked = asked_of(wanted.needs)
    found = forking.call(look, asked)
    assert found["errors"] == {} and found["data"] == {data.label: data.fingerprint}
    ((path, source),) = asked["plugins"]
    found = forking.call(look, {**asked, "plugins": [(path, f"import nowhere\n{source}")]})
    assert "line 1 (import nowhere): ModuleNotFoundError" in found["errors"]["plugins"]
    (said,) = complaints(facts(lambda f: f.update(errors=found["errors"], data=found["data"])), wanted_data(wanted))
    assert "a plugin cannot run there" in said


def wanted_data(wanted: Wanted) -> Wanted:
    """What is wanted, of the nodes that these tests make up."""
    return replace(WANTED, needs=wanted.needs)


@pytest.mark.slow
def test_the_verb_on_a_local_ray(tmp_path: Path) -> None:
    config, store = tmp_path / "tiny.yaml", tmp_path / "runs" / "tiny"
    config.write_text(TINY)
    done = fusiondistill("cluster", "check", str(config), "--store", str(store), cache=tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("fits\n") and "data: digits" in done.stdout
    assert not store.parent.exists()  # asking leaves nothing behind


def test_a_node_without_the_data_says_which_it_is(tmp_path: Path) -> None:
    data = DataSpec(
        name="folder",
        fingerprint="f",
        train_images=None,
        test_images=None,
        held_out=0,
        holdout_seed=0,
        mean=None,
        std=None,
    )
    with pytest.raises(DataError, match=f"not on the node {socket.gethostname()}: .*gone.*cluster check"):
        load_data(data, str(tmp_path / "gone"), "train")


def test_a_store_in_the_copy_that_a_job_runs_in_is_refused() -> None:
    refuse_fleeting("/shared/runs/mine")
    with pytest.raises(ValueError, match="absolute path"):
        refuse_fleeting("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs/mine")


def test_how_long_to_wait_for_nodes_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patience() == 0
    monkeypatch.setenv("FUSIONDISTILL_WAIT_FOR_NODES", "soon")
    with pytest.raises(ValueError, match="FUSIONDISTILL_WAIT_FOR_NODES is 'soon'"):
        patience()


def test_the_verb_refuses_wrong_input(tmp_path: Path) -> None:
    for arguments, text in (
        (("no-such-config",), "no-such-config"),
        (("--set", "seeds=[1]"), "name one"),
    ):
        done = fusiondistill("cluster", "check", *arguments, cache=tmp_path)
        assert done.returncode == 2 and text in done.stderr
