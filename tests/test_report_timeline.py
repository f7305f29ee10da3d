"""Stages on workers: pauses, waiting, the longest chain and worker-hours against numbers by hand."""

from pathlib import Path

import pyarrow as pa
import pytest

import planned_report as report
from fusiondistill.report.time_section import duration
from fusiondistill.report.timeline import chain, clock, lane_names, lanes, ran, waited, waiting, worker_hours
from fusiondistill.report.words import MISSING
from report_tables import Page, rows_of, table, timeline_of


def test_pauses_of_the_whole_run_are_cut_out() -> None:
    stages = ran(timeline_of(start=1e9))
    at = clock(stages)
    assert at.pauses == ((1e9 + 185, 3600.0),)
    assert [at(1e9 + t) for t in (0, 185, 2000, 3785, 3800)] == [0, 185, 185, 185, 200]
    assert clock(stages[:-1]).pauses == () and clock([]).pauses == ()


def test_lanes_are_worker_processes_in_the_order_of_their_starts() -> None:
    found = lanes(ran(timeline_of()))
    assert [(worker, [one.name for one in of]) for worker, of in found.items()] == [
        ("group1/0 (process 12) on a", ["base", "expert-jpeg"]),
        ("group1/1 (process 13) on a", ["expert-blur", "fused"]),
        ("group1/0 (process 77) on a", ["evaluate-fused-blur"]),
    ]
    assert [*sorted(lane_names(list(found)).values())] == ["group1/0, process 1", "group1/0, process 2", "group1/1"]


def test_what_waits_is_counted_from_the_last_input_to_the_start() -> None:
    stages = ran(timeline_of())
    moments, counts = waiting(stages, clock(stages))
    # expert-blur waits from 100 to 105; the test was ready at 185, when everything stopped for an hour.
    known = dict(zip(moments, counts, strict=True))
    assert known[100] == 1 and known[105] == 0 and max(counts) == 1


def test_the_chain_goes_back_over_the_last_inputs() -> None:
    stages = ran(timeline_of())
    assert [one.name for one in chain(stages)] == ["base", "expert-blur", "fused", "evaluate-fused-blur"]
    waits = [waited(one, clock(stages)) for one in chain(stages)]
    assert waits == [0, 5, 0, 0], "no stage waits for a worker while the whole run is stopped"
    assert chain([]) == []


def test_what_an_earlier_run_left_was_ready_at_the_first_start() -> None:
    """A store of yesterday: its stages stand under their own experiment, and this one waits from its own start on."""
    rows = timeline_of(start=1e9).to_pylist()
    rows[0].update(ready=1e9 - 86_400, started=1e9 + 10, seconds=90.0)
    rows[1].update(ready=1e9 - 86_400, started=1e9, finished=1e9 + 20, seconds=20.0)
    stages = ran(pa.Table.from_pylist(rows))
    moments, counts = waiting(stages, clock(stages))
    assert min(moments) == 0 and counts[moments.index(10)] == 0 and max(counts[: moments.index(10)]) == 1
    assert [waited(one, clock(stages)) for one in stages[:2]] == [0, 10]


def test_a_training_does_not_wait_while_it_trains_in_an_earlier_attempt(tmp_path: Path) -> None:
    rows = timeline_of(start=1e9).to_pylist()
    rows[2].update(started=1e9 + 150, seconds=65.0)  # 40 of its 65 s before it was resumed, ready since 100
    resumed = pa.Table.from_pylist(rows)
    stages = ran(resumed)
    by_name = {one.name: one for one in stages}
    assert waited(by_name["expert-blur"], clock(stages)) == pytest.approx(10)
    page = Page(report.write(tmp_path, table(rows_of(["base", "expert-blur"])), timeline=resumed)[0].read_text())
    assert "1 training was resumed and is drawn from the last start" in page.text["figcaption"]
    assert ["Expert: Blur, seed 0", "Base, seed 0", "10 s", "1 min 05 s"] in page.rows
    usual = report.write(tmp_path / "usual", table(rows_of(["base"])), timeline=timeline_of())[0].read_text()
    assert "resumed" not in Page(usual).text["figcaption"]


def test_worker_hours_are_summed_by_kind_and_device_over_all_workers_of_a_stage(tmp_path: Path) -> None:
    rows = [{**row, "workers": 1, "gpus": None} for row in timeline_of().to_pylist()]
    gpu = [{**row, "device": "GPU", "kind": "train", "workers": 4, "gpus": 0.5} for row in rows]
    both = pa.Table.from_pylist([*gpu, *rows])
    found = worker_hours(ran(both))
    assert [row[:3] for row in found] == [("train", "GPU", 5), ("train", "CPU", 3), ("evaluate", "CPU", 1),
                                          ("fuse", "CPU", 1)]  # fmt: skip
    assert found[1][3] == pytest.approx(230 / 3600) and found[1][4] is None
    assert found[0][3] == pytest.approx(4 * 255 / 3600) and found[0][4] == pytest.approx(4 * 255 / 3600 / 2)
    page = Page(report.write(tmp_path, table(rows_of(["base"])), timeline=both)[0].read_text())
    assert ["kind of stage", "device", "stages", "worker-hours", "GPU-hours"] in page.rows
    assert ["train", "GPU", "5", "0.283", "0.142"] in page.rows and ["train", "CPU", "3", "0.064", MISSING] in page.rows


def test_the_section_says_it_in_words(tmp_path: Path) -> None:
    page = Page(report.write(tmp_path, table(rows_of(["base", "expert-blur"])), timeline=timeline_of())[0].read_text())
    assert "5 stages on 3 workers, 3 min 20 s from the first start to the last end" in page.text["p"]
    assert "without 1 pause (1 h 00 min)" in page.text["p"]
    assert ["Expert: Blur, seed 0", "Base, seed 0", "5.0 s", "1 min 10 s"] in page.rows
    assert ["kind of stage", "device", "stages", "worker-hours"] in page.rows
    assert ["train", "CPU", "3", "0.064"] in page.rows and ["all", "", "5", "0.071"] in page.rows
    assert (tmp_path / "figures" / "time.svg").stat().st_size > 5000


def test_stages_without_times_are_left_out(tmp_path: Path) -> None:
    rows = timeline_of().to_pylist()
    rows[0]["started"] = None
    assert len(ran(pa.Table.from_pylist(rows))) == 4
    none = pa.Table.from_pylist([{**row, "started": None} for row in rows])
    text = report.write(tmp_path, table(rows_of(["base"])), timeline=none)[0].read_text()
    assert "Stages on workers" not in text


def test_durations_are_said_as_a_person_would() -> None:
    assert [duration(s) for s in (0.4, 35, 59.7, 250, 3600, 7505)] == [
        "0.4 s", "35 s", "1 min 00 s", "4 min 10 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip
