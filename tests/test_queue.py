"""The queue of ready stages as a plain object: who gets what, and what becomes of lost work."""

from __future__ import annotations

from fusiondistill.config_file import parse
from fusiondistill_runner.driving.dispatcher import GRACE, Counts, Event
from fusiondistill_runner.driving.queue import StageQueue
from fusiondistill_runner.driving.tasks import StageTask, Trial
from fusiondistill_runner.planning.plan import build
from fusiondistill_runner.planning.stage import Stage

FOUR = {"jpeg": range(1, 102), "blur": range(51), "noise": range(51), "saltpepper": range(26)}
STAGES = {s.name: s for s in build(parse("experiment: x\n"), "f", FOUR.__getitem__).stages}
SEARCHING = "experiment: x\nsearch: {space: {loss.kd: {uniform: [0, 1]}}}\n"
SEARCH = next(s for s in build(parse(SEARCHING), "f", FOUR.__getitem__).stages if s.kind == "search")
BASE, SCRATCH, VANILLA, EVALUATE = (STAGES[n] for n in ("base", "scratch", "vanilla", "evaluate-base-jpeg"))


class Clock:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def offer(q: StageQueue, stages: list[tuple[float, Stage]]) -> None:
    q.offer([StageTask(stage, priority) for priority, stage in stages])


def told(news: list[Event]) -> list[tuple[str, str, str]]:
    names = {stage.digest: name for name, stage in STAGES.items()}
    return [(event.kind, names[event.digest], event.worker) for event in news]


def given(stage: object) -> Stage:
    assert isinstance(stage, Stage)
    return stage


def test_the_highest_priority_goes_first_and_equals_in_order() -> None:
    q = StageQueue()
    offer(q, [(1.0, BASE), (5.0, EVALUATE)])
    offer(q, [(5.0, SCRATCH), (7.0, VANILLA)])
    assert q.poll() == ([], Counts(3, 1, 0))
    taken = [given(q.take(f"g/{i}", trains=True)).name for i in range(4)]
    assert taken == ["vanilla", "evaluate-base-jpeg", "scratch", "base"]
    news, counts = q.poll()
    assert counts == Counts(0, 0, 0) and [e.kind for e in news] == ["started"] * 4
    assert q.poll()[0] == []  # news is told once


def test_who_cannot_train_gets_the_rest() -> None:
    q = StageQueue()
    offer(q, [(9.0, BASE), (1.0, EVALUATE)])
    assert q.take("t/0", trains=False) is EVALUATE
    assert q.take("t/1", trains=False) == "leave"  # it costs little to start again
    assert q.take("g/0", trains=True) is BASE


def test_idle_workers_wait_while_something_may_follow_and_leave_when_not() -> None:
    clock = Clock()
    q = StageQueue(clock=clock)
    offer(q, [(1.0, BASE)])
    q.take("g/0", True)
    clock.now += 10 * GRACE  # as if so much time had passed
    assert q.take("g/1", True) == "wait" and q.take("g/1", True) == "wait"  # base runs: what follows may come
    assert q.poll()[1].idle == 1
    q.finish("g/0", BASE.digest)
    assert q.take("g/1", True) == q.take("g/0", True) == "wait"  # the driver has not had its say yet
    clock.now += GRACE / 2
    offer(q, [(1.0, VANILLA)])
    assert q.take("g/1", True) is VANILLA and q.poll()[1].idle == 1
    q.finish("g/1", VANILLA.digest)
    clock.now += GRACE + 0.1
    assert q.take("g/0", True) == q.take("g/1", True) == "leave"
    assert q.poll()[1].idle == 0


def test_progress_and_ends_are_told() -> None:
    q = StageQueue()
    offer(q, [(1.0, BASE)])
    q.take("g/0", True)
    q.report("g/0", BASE.digest, {"epoch": 3})
    q.report("g/7", BASE.digest, {"epoch": 9})  # works on nothing
    q.finish("g/0", BASE.digest)
    news = q.poll()[0]
    assert told(news) == [("started", "base", "g/0"), ("progress", "base", "g/0"), ("done", "base", "g/0")]
    assert news[0].facts == {"attempt": 1} and news[1].facts == {"epoch": 3}


def test_a_failure_is_final_unless_it_asks_for_another_try() -> None:
    q = StageQueue(attempts=3)
    offer(q, [(1.0, BASE), (1.0, SCRATCH)])
    q.take("g/0", True)
    q.finish("g/0", BASE.digest, "NaN")
    assert told(q.poll()[0])[-1] == ("failed", "base", "g/0")
    for attempt in (1, 2, 3):
        assert q.take("g/0", True) is SCRATCH
        q.finish("g/0", SCRATCH.digest, "disk full", retry=True)
        last = q.poll()[0][-1]
        assert (last.kind, last.facts["error"]) == ("lost" if attempt < 3 else "failed", "disk full")
    assert q.poll() == ([], Counts(0, 0, 0))


def test_lost_workers_give_back_what_they_had_and_not_for_ever() -> None:
    q = StageQueue(attempts=2)
    offer(q, [(2.0, BASE), (1.0, EVALUATE)])
    assert q.take("group1/0", True) is BASE and q.take("group1/1", True) is EVALUATE
    q.take("group1/2", True)
    q.take("group10/0", True)
    assert q.poll()[1].idle == 2
    q.lose("group1/")
    news, counts = q.poll()
    assert told(news) == [("lost", "base", "group1/0"), ("lost", "evaluate-base-jpeg", "group1/1")]
    assert counts == Counts(1, 1, 1)  # group10 is another group
    assert q.take("group10/0", True) is BASE  # its priority is kept
    q.lose("group10/0")
    news = q.poll()[0]
    assert told(news) == [("started", "base", "group10/0"), ("failed", "base", "group10/0")]
    assert "its worker group10/0 was lost (attempt 2)" in news[-1].facts["error"]


def test_a_worker_that_starts_over_takes_nothing_from_its_neighbours() -> None:
    """Every worker first gives up what bore its name before: worker 1 must not give up for 10 and 11."""
    q = StageQueue()
    offer(q, [(2.0, BASE), (1.0, SCRATCH)])
    q.take("group1/10", True)
    q.take("group1/11", True)
    q.poll()
    q.lose("group1/1")
    assert q.poll() == ([], Counts(0, 0, 0)) and set(q.running) == {"group1/10", "group1/11"}


def test_the_workers_of_a_group_that_is_gone_get_nothing_more() -> None:
    """They may live on when only their node's raylet died; one that starts again under a lost one's name is new."""
    q = StageQueue()
    offer(q, [(2.0, BASE), (1.0, EVALUATE)])
    q.lose("group1/0")
    assert q.take("group1/0", True) is BASE
    q.lose("group1/")
    assert q.take("group1/0", True) == q.take("group1/1", True) == "leave"
    q.lose("group1/1")  # as a worker says of its name when it starts, here too late
    assert q.take("group1/1", True) == "leave"
    assert q.take("group10/0", True) is BASE and q.take("task2/0", False) is EVALUATE


def test_what_a_stale_worker_says_is_ignored() -> None:
    q = StageQueue()
    offer(q, [(1.0, BASE)])
    q.take("g/0", True)
    q.lose("g/0")
    assert q.take("h/0", True) is BASE
    q.poll()
    q.finish("g/0", BASE.digest)  # it was not dead after all
    q.finish("h/0", SCRATCH.digest)  # not what it is at
    q.report("g/0", BASE.digest, {"epoch": 1})
    assert q.poll() == ([], Counts(0, 0, 0)) and q.running["h/0"].stage is BASE
    q.finish("h/0", BASE.digest)
    q.finish("h/0", BASE.digest)
    assert told(q.poll()[0]) == [("done", "base", "h/0")]


def test_a_stage_with_workers_of_its_own_is_never_left_to_a_pulling_one() -> None:
    """A data-parallel training or a search, done by one pulling worker, would be something else."""
    q = StageQueue()
    q.assign("run1/base", StageTask(BASE, 3.0))
    assert told(q.poll()[0]) == [("started", "base", "run1/base")]
    q.lose("run1/base")
    assert told(q.poll()[0]) == [("lost", "base", "run1/base")]  # the driver assigned it, and does so again
    assert q.take("g/0", True) == "wait" and q.poll()[1].to_train == 0
    for i in (2, 3):
        q.assign(f"run{i}/base", StageTask(BASE, 3.0))
        q.lose(f"run{i}/base")
    assert [kind for kind, _, _ in told(q.poll()[0])] == ["started", "lost", "started", "failed"]


def test_getting_further_than_before_gives_all_attempts_back() -> None:
    q = StageQueue(attempts=2)
    offer(q, [(1.0, BASE)])
    for epoch in (1, 2, 3):  # three lost workers, but an epoch more each time
        q.take("g/0", True)
        q.report("g/0", BASE.digest, {"epoch": epoch})
        q.lose("g/0")
    assert q.poll()[1].to_train == 1
    for _ in range(2):  # told again after a resume, no epoch more
        q.take("g/0", True)
        q.report("g/0", BASE.digest, {"epoch": 3, "resumed": 1})
        q.lose("g/0")
    assert told(q.poll()[0])[-1] == ("failed", "base", "g/0")


def test_idle_workers_do_not_wait_for_searches_and_runs_of_their_own() -> None:
    clock = Clock()
    q = StageQueue(clock=clock)
    q.assign("run1/base", StageTask(BASE, 1.0))
    clock.now += GRACE + 0.1
    q.report("run1/base", BASE.digest, {"epoch": 1})  # progress is no news of what may follow
    assert q.take("g/0", True) == "leave"
    assert q.holds("run1/base", BASE.digest) and not q.holds("g/0", BASE.digest)
    q.lose("run1/base")
    assert not q.holds("run1/base", BASE.digest)


def test_a_model_stays_with_the_worker_that_has_it_loaded() -> None:
    """Two models with many pieces each, two workers: each worker takes one model, then helps with the other."""
    content = build(parse("experiment: x\nmethods: [base, scratch]\n"), "f", FOUR.__getitem__)
    pieces = [stage for stage in content.stages if stage.kind == "evaluate"]
    q = StageQueue()
    offer(q, [(1.0, stage) for stage in sorted(pieces, key=lambda s: s.digest)])  # both models mixed
    half = len(pieces) // 2
    seen: dict[str, list[str]] = {"g/0": [], "g/1": []}
    for _ in range(half - 1):
        for worker in seen:
            stage = given(q.take(worker, True))
            seen[worker].append(stage.inputs["model"].name)
            q.finish(worker, stage.digest)
    assert {tuple(dict.fromkeys(names)) for names in seen.values()} == {("base",), ("scratch",)}
    left = [given(q.take("g/0", True)).inputs["model"].name for _ in range(2)]
    assert set(left) == {"base", "scratch"}  # no worker waits while something is left
    offer(q, [(1.0, pieces[0]), (9.0, VANILLA)])
    assert q.take("g/1", True) is VANILLA  # what others wait for goes first


def test_who_is_lost_with_another_keeps_its_attempts() -> None:
    """A group falls with the worker that died: what its neighbours were at is not to blame."""
    q = StageQueue(attempts=2)
    for attempt in (1, 2):
        offer(q, [(2.0, BASE), (1.0, SCRATCH)] if attempt == 1 else [])
        assert q.take(f"g{attempt}/0", True) is BASE and q.take(f"g{attempt}/1", True) is SCRATCH
        q.lose(f"g{attempt}/", "killed", blamed={f"g{attempt}/0"})
    ends = q.poll()[0][-2:]
    assert told(ends) == [("failed", "base", "g2/0"), ("lost", "scratch", "g2/1")]
    assert ends[0].facts["error"] == "its worker g2/0 was lost (attempt 2): killed"
    assert q.take("g3/0", True) is SCRATCH


def test_a_run_that_is_about_to_end_waits_for_an_epoch_of_each_training() -> None:
    q = StageQueue()
    offer(q, [(3.0, BASE), (2.0, SCRATCH), (1.0, EVALUATE), (0.0, VANILLA)])
    for i in range(3):
        q.take(f"g/{i}", True)
    assert not q.closing()
    q.report("g/0", BASE.digest, {"epoch": 1, "kept": True})  # before it was asked for
    q.close()
    q.close()
    assert q.closing() and q.waiting_for() == 2  # an evaluation has nothing to keep
    assert q.take("g/3", True) != VANILLA
    q.report("g/0", BASE.digest, {"epoch": 2, "kept": False})
    assert q.waiting_for() == 2
    q.report("g/0", BASE.digest, {"epoch": 3, "kept": True})
    q.lose("g/1")
    assert q.waiting_for() == 0


def searching(priority: float = 5.0, left: int = 3, judged: tuple[int, ...] = ()) -> StageQueue:
    """A queue with a search that has so many trials to propose."""
    q = StageQueue()
    q.assign("search/x", StageTask(SEARCH, priority))
    q.expect(SEARCH.digest, left, judged)
    q.poll()
    return q


def trial(number: int) -> Trial:
    return Trial(SEARCH, number, {"loss.kd": 0.1 * number}, 5.0)


def wanted(q: StageQueue) -> list[str]:
    return [event.worker for event in q.poll()[0] if event.kind == "wanted"]


def test_a_search_proposes_a_trial_for_each_worker_that_finds_nothing_more_urgent() -> None:
    q = searching()
    offer(q, [(7.0, BASE), (1.0, EVALUATE)])
    assert q.poll()[1] == Counts(4, 1, 0)  # three trials may come
    assert q.take("g/0", True) is BASE
    assert q.take("g/1", True) == q.take("g/1", True) == "wait"  # not the evaluation: a trial is on its way
    assert q.take("g/2", True) == "wait" and wanted(q) == ["g/1", "g/2"]
    assert q.counts() == Counts(3, 1, 2)
    q.offer([trial(0)])
    first, second = q.take("g/2", True), q.take("g/1", True)
    assert first == trial(0) and second == "wait"  # g/1 has waited longer, but asks later
    q.offer([trial(1)])
    assert q.take("g/1", True) == trial(1)
    q.finish("g/2", trial(0).key)
    assert [event.kind for event in q.poll()[0]][-1] == "done"
    q.expect(SEARCH.digest, 0)  # it has no more
    assert q.take("g/2", True) is EVALUATE and q.counts() == Counts(0, 0, 0)
    q.finish("g/2", EVALUATE.digest)
    assert q.take("g/2", True) == "wait"  # what needs the winner comes


def test_a_search_with_less_behind_it_waits_for_what_has_more() -> None:
    q = searching(priority=5.0)
    offer(q, [(5.0, BASE), (6.0, EVALUATE)])
    assert q.take("t/0", False) is EVALUATE and q.take("t/1", False) == "leave"  # no plain worker trains
    assert q.take("g/0", True) is BASE  # of equals the one that is ready
    assert q.take("g/1", True) == "wait"
    offer(q, [(9.0, VANILLA)])
    assert q.take("g/1", True) is VANILLA
    q.offer([trial(0)])  # proposed for a worker that found something better
    assert q.take("g/2", True) == trial(0) and wanted(q) == ["g/1"]


def test_of_two_searches_the_one_with_the_longer_path_is_asked() -> None:
    q = searching(priority=5.0, left=1)
    other = build(parse(SEARCHING.replace("1]", "2]")), "f", FOUR.__getitem__).stages
    longer = next(stage for stage in other if stage.kind == "search")
    q.assign("search/y", StageTask(longer, 6.0))
    q.expect(longer.digest, 1)
    for worker in ("g/0", "g/1", "g/2"):
        assert q.take(worker, True) == "wait"
    assert [event.digest for event in q.poll()[0] if event.kind == "wanted"] == [longer.digest, SEARCH.digest]


def test_a_lost_trial_is_tried_again_and_goes_on_being_judged() -> None:
    q = searching(left=1, judged=(2,))
    q.take("g/0", True)
    q.offer([trial(0)])
    assert q.take("g/0", True) == trial(0)
    assert q.goes_on("g/0", trial(0).key, 1) is True and q.goes_on("g/0", trial(0).key, 2) is None
    q.lose("g/")
    assert q.goes_on("g/0", trial(0).key, 1) is False  # another worker has it soon
    assert q.take("h/0", True) == trial(0)
    q.judge(trial(0).key, 2, False)
    assert q.goes_on("h/0", trial(0).key, 2) is False and q.goes_on("h/0", trial(0).key, 1) is True


def test_with_its_search_a_trial_ends() -> None:
    q = searching()
    for worker in ("g/0", "g/1"):
        q.take(worker, True)
    q.offer([trial(0), trial(1)])
    assert q.take("g/0", True) == trial(0)
    q.finish("search/x", SEARCH.digest, "the disk is full")
    assert q.goes_on("g/0", trial(0).key, 1) is False and q.counts() == Counts(0, 0, 1)
    q.judge(trial(0).key, 1, True)  # too late
    q.finish("g/0", trial(0).key)
    offer(q, [(1.0, BASE)])
    assert q.take("g/1", True) is BASE


def test_a_trial_that_was_stopped_does_not_go_on_after_a_later_epoch() -> None:
    """It went on from an epoch between two at which trials are judged, so the verdict names one that is not."""
    q = searching(judged=(2, 6))
    assert q.take("g/0", trains=True) == "wait"
    q.offer([trial(0)])
    q.take("g/0", trains=True)
    assert q.goes_on("g/0", trial(0).key, 3) is True  # not heard of yet
    q.judge(trial(0).key, 3, False)
    assert q.goes_on("g/0", trial(0).key, 4) is False and q.goes_on("g/0", trial(0).key, 2) is None


def test_a_trial_without_its_search_is_not_tried_again_and_late_news_is_left_out() -> None:
    q = searching()
    assert q.take("g/0", trains=True) == "wait"
    q.offer([trial(0)])
    q.take("g/0", trains=True)
    q.news()
    q.report("g/0", trial(1).key, {"epoch": 1})  # overtaken by the end of another trial
    assert not q.news()
    q.report("g/0", trial(0).key, {"epoch": 1})
    assert [event.kind for event in q.news()] == ["progress"]
    q.finish("search/x", SEARCH.digest, "it failed")
    q.lose("g/0")
    assert q.counts().to_train == 0


def test_a_run_that_is_about_to_end_waits_for_an_epoch_of_each_trial() -> None:
    q = searching()
    q.take("g/0", True)
    q.offer([trial(0)])
    q.take("g/0", True)
    q.close()
    assert q.waiting_for() == 1 and q.take("g/1", True) == "wait" and wanted(q) == ["g/0"]
    q.report("g/0", trial(0).key, {"epoch": 1, "kept": True})
    assert q.waiting_for() == 0
