"""What several test files share: a few images, and a cache folder that is not the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import running
from bucket import KEYS, Bucket, serving
from fusiondistill import plugins
from fusiondistill.data import ImageSet

Images = Callable[..., ImageSet]

LONGEST = (
    "test_faults", "test_nodes", "test_search_faults", "test_submitted_jobs", "test_failing_stages",
    "test_store_faults",
    "test_parallel_nodes", "test_run_sweep", "test_evaluation_faults", "test_searches_side_by_side", "test_bucket_runs",
    "test_growing", "test_local_trust", "test_local", "test_run", "test_models", "test_report_browser", "test_fuzz",
    "test_bucket", "test_large_plans", "test_lease", "test_report_page", "test_bench_evaluation", "test_openness",
    "test_readers_that_leave", "test_folding", "test_data", "test_hostile", "test_fitting", "test_data_bad_input",
    "test_degradations_exact", "test_golden", "test_parallel_training", "test_verbs",
)  # fmt: skip
"""Files in the order in which processes take them, the longest first: all processes come to their end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files of :data:`LONGEST` to the front."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded data sets go below pytest's folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        running.SESSION["folder"] = str(tmp_path_factory.mktemp("runs"))
        patch.setenv("FUSIONDISTILL_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are shared with whatever else runs, and bits may depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_entries() -> Iterator[None]:
    """What a test registers, and the plugins that it loads, go with it."""
    registries = list(plugins.all_registries().values())
    before, loaded = [dict(registry._added) for registry in registries], dict(plugins._loaded)
    yield
    for registry, added in zip(registries, before, strict=True):
        registry._added = added
    plugins._loaded.clear()
    plugins._loaded.update(loaded)


@pytest.fixture(scope="module")
def ray_head() -> Iterator[Any]:
    """A Ray cluster without CPUs, for the tests of one file; they add the nodes that they need."""
    import ray
    from ray.cluster_utils import Cluster

    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
    )
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def two_cpus(ray_head: Any) -> str:
    """The address of a cluster with one node of two CPUs, for the tests of one file."""
    ray_head.add_node(num_cpus=2)
    address: str = ray_head.address
    return address


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A real S3 server with a bucket, and its credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        with serving(tmp_path_factory.mktemp("bucket")) as running:
            yield running


@pytest.fixture
def tiny() -> Images:
    """``tiny(n, height, width, ...)``: n random images without a black pixel, labels in turn, uneven statistics."""

    def make(
        n: int = 37, height: int = 8, width: int = 8, classes: int = 3, seed: int = 0, flip: bool = True
    ) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(1, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
        labels = torch.arange(n) % classes
        statistics = ((100.0, 120.0, 140.0), (50.0, 60.0, 70.0))
        names = [f"class {i}" for i in range(classes)]
        return ImageSet("tiny", images, labels, names, statistics=statistics, flip=flip)

    return make
