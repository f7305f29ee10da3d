"""Chains of jobs that wait for one another, and orders of jobs that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fusiondistill_runner.forecasting.simulation import Job

__all__ = ["ORDERS", "critical_path", "longest_paths"]


def longest_paths(jobs: Sequence[Job]) -> dict[str, float]:
    """Key -> seconds of a job plus those of the longest chain that waits for it, on unlimited workers."""
    longest: dict[str, float] = {}
    for job in reversed(jobs):
        own = longest[job.key] = longest.get(job.key, 0.0) + job.shortest
        for need in job.needs:
            longest[need] = max(longest.get(need, 0.0), own)
    return longest


def critical_path(jobs: Sequence[Job]) -> list[Job]:
    """The chain of jobs that bounds the makespan on any number of devices, first to last; seconds are ``shortest``."""
    longest = longest_paths(jobs)
    followers: Mapping[str, list[Job]] = {job.key: [] for job in jobs}
    starts = []
    for job in jobs:
        there = [need for need in job.needs if need in followers]
        for need in there:
            followers[need].append(job)
        if not there:
            starts.append(job)
    chain, after = [], starts
    while after:
        chain.append(max(after, key=lambda job: longest[job.key]))
        after = followers[chain[-1].key]
    return chain


def _by_path(jobs: Sequence[Job]) -> list[Job]:
    longest = longest_paths(jobs)
    return [replace(job, priority=longest[job.key]) for job in jobs]


ORDERS: Mapping[str, Callable[[Sequence[Job]], list[Job]]] = {
    "driver": list,
    "longest path": _by_path,
    "first come": lambda jobs: [replace(job, priority=0.0) for job in jobs],
    "shortest first": lambda jobs: [replace(job, priority=-job.seconds) for job in jobs],
}
"""Orders to compare: the driver's (longest path in epochs), the longest path in seconds, and two naive ones."""
