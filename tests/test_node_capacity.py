"""Which nodes get work, and what is said of those that get none. Nodes are values here: no Ray is started."""

from __future__ import annotations

import hashlib
import re
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import exceptions

import forking
from fusiondistill.config import Resources
from fusiondistill.data import fingerprint
from fusiondistill.plugins import Plugin, load_plugins
from fusiondistill_runner import runner
from fusiondistill_runner.driving.prepared import prepare
from fusiondistill_runner.nodes import capacity as capacities
from fusiondistill_runner.nodes.capacity import Capacity
from fusiondistill_runner.nodes.node_checks import KnownFile, Needs, NodeAnswer, NodeSurvey, look
from fusiondistill_runner.working.context import DataSet

RESOURCES = Resources()
NO_DATA = NodeAnswer(lacking="the data set 'cifar10' is not on the node n2: copy it")
STRANGER = NodeAnswer(refusal="does not see the store (no plan there)")


@dataclass
class Cluster:
    """Stands for the module ``ray``: what each node answers; None: nothing yet."""

    answers: dict[str, NodeAnswer | Exception | None]
    asked: list[str] = field(default_factory=list)
    exceptions = exceptions

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": n, "NodeManagerAddress": n, "NodeManagerPort": 1, "Resources": {"CPU": 2}, "Alive": True}
            for n in self.answers
        ]

    def remote(self, function: Any) -> Any:
        assert function is look

        def options(scheduling_strategy: str, **others: Any) -> Any:
            self.asked.append(scheduling_strategy)
            return SimpleNamespace(remote=lambda needs, gpus: scheduling_strategy)

        return SimpleNamespace(options=options)

    def wait(self, references: list[str], **others: Any) -> tuple[list[str], list[str]]:
        return [n for n in references if self.answers[n] is not None], []

    def get(self, node: str) -> Any:
        answer = self.answers[node]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusiondistill_runner.nodes.node_checks.on_node", lambda node: node)  # Ray wants 56 digits


def _capacity(cluster: Cluster, resources: Resources = RESOURCES) -> Capacity:
    return Capacity(cluster, resources, NodeSurvey(cluster, Needs()), lambda: None)


def test_a_node_without_the_data_is_named_and_gets_no_work() -> None:
    cluster = Cluster({"n1": NodeAnswer(), "n2": NO_DATA})
    capacity = _capacity(cluster)
    assert capacity.nodes == {"n1": 2} and capacity.refused == {"n2"} and capacity.slots == 2
    (said,) = capacity.warnings
    assert "n2" in said and "gets no work" in said and "'cifar10' is not on the node" in said


def test_a_run_ends_at_once_where_no_node_has_the_data() -> None:
    with pytest.raises(ValueError, match=r"too few nodes can work; node n2: the data set 'cifar10' .*; node n3: the"):
        _capacity(Cluster({"n2": NO_DATA, "n3": NO_DATA}))
    with pytest.raises(ValueError, match="too few nodes can work; node n2"):
        _capacity(Cluster({"n1": NodeAnswer(), "n2": NO_DATA}), Resources(workers_per_run=3))


def test_a_node_that_does_not_see_the_store_ends_the_start_of_a_run() -> None:
    with pytest.raises(ValueError, match=r"node n2 does not see the store .*give a --store that all nodes share"):
        _capacity(Cluster({"n1": NodeAnswer(), "n2": STRANGER}))


def test_late_nodes_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "REFRESH", 0.0)
    cluster = Cluster({"n1": NodeAnswer()})
    capacity = _capacity(cluster)
    cluster.answers |= {"n2": NO_DATA, "n3": STRANGER, "n4": NodeAnswer(warning="torch sees none"), "n5": None}
    news = "\n".join(capacity.refresh())
    assert re.search("n2.* gets no work: the data set", news) and re.search("n3.* store .*: it gets no work", news)
    assert "n4 (n4) has joined with 2 slots\nnode n4 (n4): torch sees none" in news and "n5" not in news
    assert capacity.refresh() == [] and capacity.nodes == {"n1": 2, "n4": 2} and capacity.refused == {"n2", "n3"}
    cluster.answers["n5"] = NodeAnswer()
    assert capacity.refresh() == ["node n5 (n5) has joined with 2 slots"]
    assert cluster.asked == ["n1", "n2", "n3", "n4", "n5"]
    del cluster.answers["n1"]
    assert capacity.refresh() == ["node n1 is gone"] and capacity.nodes == {"n4": 2, "n5": 2}


def test_slow_nodes_are_waited_for_only_as_long_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "ANSWER", 0.0)
    assert _capacity(Cluster({"n1": NodeAnswer(), "n2": None})).nodes == {"n1": 2}
    monkeypatch.setattr(capacities, "LONGEST", 0.1)
    with pytest.raises(ConnectionError, match="1 node gave no answer"):
        _capacity(Cluster({"n1": NodeAnswer(), "n2": None}), Resources(workers_per_run=3))


def test_a_stop_is_heard_while_nodes_are_waited_for() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    cluster = Cluster({"n1": None})
    with pytest.raises(KeyboardInterrupt):
        Capacity(cluster, RESOURCES, NodeSurvey(cluster, Needs()), check)


def test_a_node_that_goes_before_it_answers_is_forgotten() -> None:
    cluster = Cluster({"n1": NodeAnswer(), "n2": exceptions.NodeDiedError("gone")})
    assert _capacity(cluster).nodes == {"n1": 2}


@dataclass
class Losing(Cluster):
    """A cluster that loses the first answers of its nodes, as where the process of a job before is ended late."""

    losses: int = 0

    def get(self, node: str) -> Any:
        if self.asked.count(node) <= self.losses:
            raise exceptions.WorkerCrashedError
        return super().get(node)


def test_a_node_whose_answer_is_lost_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "REFRESH", 0.0)
    cluster = Losing({"n1": NodeAnswer()}, losses=2)
    assert _capacity(cluster).nodes == {"n1": 2} and cluster.asked == ["n1"] * 3
    broken = Losing({"n1": NodeAnswer()}, losses=100)
    with pytest.raises(ValueError, match=r"n1 cannot run the project: the process .* ended 5 times \(Worker"):
        _capacity(broken)
    gone = Losing({"n1": NodeAnswer()}, losses=100)
    assert Capacity(gone, RESOURCES, NodeSurvey(gone, Needs()), gone.answers.clear).nodes == {}, "nor is it waited for"


def test_what_a_node_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"seen")
    seen = KnownFile(str(tmp_path), str(tmp_path / "plan"), hashlib.sha256(b"seen").hexdigest())
    digits = DataSet("digits", None, fingerprint("digits"))
    assert look(Needs(seen, (digits,), (str(tmp_path),)), 0) == NodeAnswer()
    absent = look(Needs(KnownFile(str(tmp_path), str(tmp_path / "other"), seen.sha256)), 0)
    assert "does not see the store" in absent.refusal and not absent.can_work
    gone = look(Needs(data=(DataSet("folder", str(tmp_path / "gone"), "f"),)), 0)
    assert f"is not on the node {socket.gethostname()}" in gone.lacking and "copy the files" in gone.lacking
    other = look(Needs(data=(DataSet("digits", None, "f"),)), 0)
    assert "not the one that this run was planned with" in other.lacking and not other.can_work
    assert "no folder" in look(Needs(folders=(str(tmp_path / "gone"),)), 0).lacking


def test_a_node_that_cannot_decode_lacks_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusiondistill_runner.working.data import load_split

    load_split.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "file" / "cache"))
    lacking = look(Needs(data=(DataSet("digits", None, fingerprint("digits")),)), 0).lacking
    assert "cannot be written" in lacking and "Set FUSIONDISTILL_CACHE" in lacking


def needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: Path, data: str) -> Needs:
    """What a run on a cluster needs of its nodes, with a data source of a plugin."""
    config = tmp_path / "own.yaml"
    config.write_text(
        f"experiment: own\ndata: {data}\nmodel: {{name: cifar_resnet8}}\nmethods: [base]\nplugins: [{plugin}]\n"
    )
    prepared = prepare(str(config), (), str(tmp_path / "store"))
    runner.note_plan(prepared, "run own")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return runner._needs(prepared)


def test_a_node_loads_the_plugins_and_has_their_data_with_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripes = Path(__file__).parent / "plugins" / "stripes.py"
    needs = needed(tmp_path, monkeypatch, stripes, "{name: stripes, side: 12}")
    assert [one.label for one in needs.data] == ["stripes (side 12, count 40)"]
    assert look(needs, 0) == NodeAnswer() and forking.call(look, needs, 0) == NodeAnswer()
    (plugin,) = needs.plugins
    other = Plugin(plugin.path, plugin.source.replace("default_rng(0", "default_rng(2"))
    lacking = forking.call(look, replace(needs, plugins=(other,)), 0).lacking
    assert "'stripes'" in lacking and "not the one that this run was planned with" in lacking
    broken = Plugin(plugin.path, f"import nowhere\n{plugin.source}")
    answer = forking.call(look, replace(needs, plugins=(broken,)), 0)
    assert not answer.refusal, "other nodes may have what the plugin imports"
    assert re.search(r"stripes.py, line 1 \(import nowhere\): ModuleNotFound.*; install there", answer.lacking)
    late = Plugin(plugin.path, plugin.source.replace("    def rows", "    import nowhere\n\n    def rows"))
    load_plugins([late])
    data = replace(needs.data[0], fingerprint=fingerprint("stripes", side=12))
    lacking = forking.call(look, Needs(data=(data,), plugins=(late,)), 0).lacking
    assert "(import nowhere): ModuleNotFoundError" in lacking, "the file runs, and reading the images does not"


def test_parameters_of_a_type_that_only_the_plugin_has_reach_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picky = Path(__file__).parent / "plugins" / "picky.py"
    needs = needed(tmp_path, monkeypatch, picky, "{name: picky, tone: bright, sides: [8, 10]}")
    assert needs.data[0].parameters == {"tone": "bright", "sides": [8, 10]}
    assert forking.call(look, needs, 0) == NodeAnswer()
