"""The benchmark of a GPU, as far as there is none: it says so, and explains kernels that it is given."""

from __future__ import annotations

import pytest
import torch

from fusiondistill import bench_gpu
from fusiondistill.bench_profile import family, in_words


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_gpu.main(["--json", "/nonexistent/file"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "no CUDA GPU" in said.err


@pytest.mark.parametrize(("kernel", "expected"), [
    ("sm90_xmma_wgrad_implicit_gemm_indexed_bf16bf16", "convolution"),
    ("void at::native::batch_norm_collect_statistics_channels_last_kernel<...>", "BatchNorm"),
    ("void at::native::multi_tensor_apply_kernel<at::native::...FusedSgdMathFunctor>", "optimiser"),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor>", "elementwise"),
    ("Memcpy DtoD (Device -> Device)", "copies"),
    ("sm90_gemm_f64f64", "matrix product"),
    ("mystery", "other"),
])  # fmt: skip
def test_kernels_are_told_by_their_names(kernel: str, expected: str) -> None:
    assert family(kernel) == expected


def test_what_bounds_a_step_is_said_in_words() -> None:
    kernels = {"xmma_fprop": (10.0, 600.0), "elementwise": (100.0, 200.0)}
    said = in_words(kernels, 1000.0)
    assert said.startswith("1.00 ms a step, 110 kernels busy for 80% of it, 25% of that in kernels of at most 4 us")
    assert said.endswith("convolution 75%, elementwise 25%; bound by convolution (bandwidth or arithmetic)")
    assert in_words(kernels, 2000.0).endswith("bound by the host and gaps between kernels")
    assert in_words({"elementwise": (1000.0, 900.0)}, 1000.0).endswith("bound by the start of short kernels")
