"""Batches out of tensors that keep their place: what a CUDA graph of a step needs."""

from __future__ import annotations

import torch

from fusiondistill.batches import Batch, Pipeline
from fusiondistill.feeding import held

__all__ = ["StaticBatches"]


class StaticBatches:
    """The batches of a pipeline as a function of tensors that are written once an epoch, the images on the device.

    The same batches as :meth:`fusiondistill.batches.Pipeline.epoch`, to the bit.

    Attributes:
        orders: int64 [D, N], or [2 D, N] under mixup, the images of the epoch in the order of the steps.
        addresses: int64 [D, 6], of the epoch's random choices.
        start: int64 [], how many images of each degradation the steps before have had.
        sizes: how many images of each degradation each step of an epoch has.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        count = len(pipeline.images)
        self.pipeline = pipeline
        self.pixels, self.labels = held(pipeline.images, pipeline.device)
        self.weights = pipeline.image_weights()
        self.orders, self.addresses = pipeline.orders(0), pipeline.addresses(0)
        self.start = torch.zeros((), dtype=torch.int64, device=pipeline.device)
        self.sizes = [min(pipeline.batch_size, count - at) for at in range(0, count, pipeline.batch_size)]

    def begin(self, epoch: int) -> None:
        """Write what the steps of an epoch read."""
        self.orders.copy_(self.pipeline.orders(epoch))
        self.addresses.copy_(self.pipeline.addresses(epoch))
        self.start.zero_()

    def next(self, size: int) -> Batch:
        """The next batch, of a step with so many images of each degradation."""
        step = self.orders.index_select(1, self.start + torch.arange(size, device=self.start.device))
        self.start += size
        rows = [self.pipeline.rows(order) for order in step]
        images = [(self.pixels.index_select(0, one), self.labels.index_select(0, one)) for one in rows]
        return self.pipeline.batch(step, images, self.addresses, self.weights)
