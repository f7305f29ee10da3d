"""The Ray Train fit of a worker group: as Ray does it on a user's cluster, and with less on a Ray of the driver's own.

Ray starts processes for what only a cluster needs, one after another: on two cores they take half of the time from the
start to the first stage. They are left out where the driver has started Ray for itself on one machine.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution import controller
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

__all__ = ["ClusterTrainer", "LocalTrainer"]


class ClusterTrainer(DataParallelTrainer):
    """On a cluster: all but the callback for the sets of Ray Data, since a worker reads its images itself."""

    needless: tuple[str, ...] = ("DatasetsCallback",)

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in self.needless]


class LocalTrainer(ClusterTrainer):
    """On a Ray of the driver's own.

    Nothing there asks an autoscaler for nodes. The slots of a controller that died are given back by the driver once
    its other launches have ended, which is soon on one machine. All processes have the driver's environment anyway,
    and without its own runtime environment an actor takes a process that Ray has started ahead.
    """

    needless = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = _Fixed(self.scaling_config)
        process = ray.remote(num_cpus=0)(TrainController).remote(**parts)
        ray.get(process.run.remote())
        return ray.get(process.get_result.remote())


class _Fixed(FixedScalingPolicy):
    """Asks no autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing."""

    def _maybe_send_resource_request(self) -> None:
        pass


class _Group(WorkerGroup):
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return custom_runtime_env


class TrainController(controller.TrainController):
    """Named like Ray's own, as its process is."""

    worker_group_cls = _Group
