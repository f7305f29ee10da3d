"""The tensor versions, which GPUs run: the same pixels as the compiled kernels, no trip to the host, little memory."""

import importlib
import re
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusiondistill.degradations import DEGRADATIONS, PAPER_DEGRADATIONS, blur, degrade
from fusiondistill.degradations.machinery import fields, gpu_kernels

# Operations whose result, or its shape, has to be known on the host.
HOST_TRIPS = {
    "_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique_consecutive",
    "_unique2", "unique_dim", "bincount", "allclose", "repeat_interleave.Tensor",
}  # fmt: skip


def batch(count=48, height=33, width=47):
    generator = torch.Generator().manual_seed(8)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def some_levels(name, count):
    levels = DEGRADATIONS[name].levels
    return torch.randint(levels[0], levels[-1] + 1, (count,), generator=torch.Generator().manual_seed(9))


@pytest.fixture
def tensors_only(monkeypatch):
    """As on a GPU, or without numba."""
    monkeypatch.setattr(fields, "cpu_kernels", lambda module: None)


@pytest.mark.parametrize("protocol", ["standard", "paper"])
@pytest.mark.parametrize("name", PAPER_DEGRADATIONS)
def test_kernel_and_tensors_agree_to_the_pixel(name, protocol, monkeypatch):
    images, levels = batch(), some_levels(name, 48)
    indices = torch.arange(48) * 7919 - 100
    compiled = degrade(images, name, levels, seed=-5, indices=indices, protocol=protocol)
    monkeypatch.setattr(fields, "cpu_kernels", lambda module: None)
    assert torch.equal(degrade(images, name, levels, seed=-5, indices=indices, protocol=protocol), compiled)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_no_step_needs_a_value_on_the_host(name):
    """A tensor on the `meta` device has no values: any step that asked for one would fail."""
    images, levels = batch(6).to("meta"), some_levels(name, 6).to("meta")
    out = degrade(images, name, levels, seed=0, indices=torch.arange(6, device="meta"))
    assert out.device.type == "meta"
    assert out.shape == images.shape


class Watch(TorchDispatchMode):
    """Sees every operation: which there were, and how many bytes were alive at most."""

    def __init__(self):
        super().__init__()
        self.names, self.alive, self.now, self.peak = set(), {}, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.names.add(function.overloadpacket.__name__)
        self.names.add(f"{function.overloadpacket.__name__}.{function._overloadname}")
        if function.overloadpacket.__name__ == "index":
            masks = [x for x in tree_leaves(arguments[1]) if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
            if masks:
                self.names.add("nonzero")
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage):
        if storage._cdata not in self.alive:
            self.alive[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.free, storage._cdata)

    def free(self, key):
        self.now -= self.alive.pop(key, 0)


def watched(function, *arguments):
    with Watch() as watch:
        function(*arguments)
    return watch


def test_the_watch_sees_host_trips():
    assert "nonzero" in watched(lambda x: x[x > 3], torch.arange(9)).names
    assert "_local_scalar_dense" in watched(lambda x: x.max().item(), torch.arange(9)).names
    assert watched(lambda x: (x * 2).sum(), torch.ones(1000)).peak >= 4000


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_host_trips_are_forbidden_and_memory_is_bounded(name, tensors_only):
    images, levels = batch(256, 32, 32), some_levels(name, 256)
    degradation = DEGRADATIONS[name]
    extra = {"keys": torch.arange(256) * 2**40 + 17, "protocol": "standard"}
    extra = {key: value for key, value in extra.items() if key in degradation.wants}
    degradation.function(images, levels, **extra)  # Tables are made once per device.
    watch = watched(lambda: degradation.function(images, levels, **extra))
    assert not watch.names & HOST_TRIPS
    assert watch.peak <= 16 * images.numel()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_cuda_gives_the_same_pixels_without_synchronising(name):
    images, levels = batch(), some_levels(name, 48)
    expected = degrade(images, name, levels, seed=3)
    there, levels_there = images.cuda(), levels.cuda()
    degrade(there, name, levels_there, seed=3)  # Tables are made once per device.
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = degrade(there, name, levels_there, seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), expected)


def test_levels_on_a_device_are_clamped_instead_of_read():
    images = batch(3)
    clamped = degrade(images, "blur", 50, seed=0)
    assert clamped.shape == images.shape
    out = degrade(images.to("meta"), "blur", torch.tensor([0, 50, 99]).to("meta"), seed=0)
    assert out.device.type == "meta"


def kernel_module(monkeypatch, interpreted):
    """The module with the GPU's blur, for Triton's interpreter on the CPU or for its compiler."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreted)))
    name = "fusiondistill.degradations.machinery.blur_triton"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


def test_the_gpu_s_blur_kernel_has_the_pixels_of_the_tensor_operations(monkeypatch):
    """At every level, on noise and on flat images."""
    kernel, cpu = kernel_module(monkeypatch, interpreted=True), torch.device("cpu")
    monkeypatch.setattr(kernel, "BLOCK", 2**14)  # few programs: each is slow there
    assert gpu_kernels.agrees(kernel.run, cpu, blur.tensor_blur, blur.weights(cpu), (9, 14))
    assert not gpu_kernels.agrees(lambda images, *_: images, cpu, blur.tensor_blur, blur.weights(cpu), (9, 14))


def test_the_gpu_s_blur_kernel_multiplies_and_adds_apart(monkeypatch, tmp_path):
    """Compiled for an H100, it has no fused multiply-add, which would round once instead of twice."""
    kernel = kernel_module(monkeypatch, interpreted=False)._pass
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kinds = ["*u8", "*u8", "*fp64", "*i64", *["i32"] * 4, "constexpr", "constexpr"]
    source = ASTSource(kernel, dict(zip(kernel.arg_names, kinds, strict=True)), {(8,): blur.RADIUS, (9,): 512})
    text = compile(source, GPUTarget("cuda", 90, 32), {"enable_fp_fusion": False}).asm["ptx"]
    assert {*re.findall(r"(?:fma|mul|add)[.\w]*f64", text)} == {"mul.rn.f64", "add.rn.f64"}
