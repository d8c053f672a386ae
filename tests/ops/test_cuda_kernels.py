"""The CUDA kernels run on the CPU by tests/cuda_shim: it finds faults; and what the tests of the ops cannot reach.

The contract and the tests of every op run on the shim by themselves, see `device` in tests/conftest.py.
"""

import importlib
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuda_shim import build, dispatch
from torch._subclasses.fake_tensor import FakeTensorMode

import msr.ops
from msr.ops._determinism import must_repeat
from ops import test_conv_pixel_shuffle, test_conv_transpose2d, test_deform_conv2d, test_flow_warp
from ops.contract import Sample, arrange, assert_close

KERNELS = sorted((Path(__file__).parents[2] / "csrc").glob("*.cu"))
COUNT = 64

pytestmark = [
    pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler to compile the kernels with"),
    pytest.mark.skipif(dispatch.real_kernels(), reason="CUDA kernels are loaded; with MSR_CUDA=0 they run on the shim"),
]


@pytest.fixture(params=dispatch.ORDERS)
def shim(request: pytest.FixtureRequest) -> Iterator[dispatch.Shim]:
    """Every op runs its CUDA kernel on the CPU."""
    with dispatch.shim().running(request.param):
        yield dispatch.shim()


def run(kernel: str, order: str = "forward", sanitize: bool = False) -> subprocess.CompletedProcess[str]:
    command = [str(build.faults(sanitize)), kernel, str(dispatch.ORDERS.index(order))]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def values(kernel: str, order: str) -> list[float]:
    done = run(kernel, order)
    assert done.returncode == 0, done.stdout + done.stderr
    return [float(word) for word in done.stdout.split()]


EXPECTED = {
    "neighbours": [float((n + 1) % COUNT) for n in range(COUNT)],
    "warp-neighbours": [float(n ^ 1) for n in range(COUNT)],
    "rounds": [float(2 * (COUNT - 1 - n) + 1) for n in range(COUNT)],
}


@pytest.mark.parametrize("kernel", EXPECTED)
def test_a_missing_barrier_shows(kernel: str) -> None:
    """With the barrier every order gives the right result; without it at least two orders give a wrong one."""
    wrong = 0
    for order in dispatch.ORDERS:
        assert values(kernel, order) == EXPECTED[kernel]
        wrong += values(f"{kernel}-faulty", order) != EXPECTED[kernel]
    assert wrong >= 2


@pytest.mark.parametrize("kernel", ["some-at-the-barrier", "two-barriers"])
def test_a_barrier_that_not_all_threads_meet_is_an_error(kernel: str) -> None:
    for order in dispatch.ORDERS:
        done = run(kernel, order)
        assert done.returncode == 1
        assert re.search(r"not all threads of a block come to the barrier at .*faults.cpp:\d+", done.stdout)


def test_shared_memory_starts_as_nan() -> None:
    got = values("unwritten", "forward")
    assert got[: COUNT // 2] == [float(n) for n in range(COUNT // 2)]
    assert all(math.isnan(value) for value in got[COUNT // 2 :])


@pytest.mark.parametrize("order", dispatch.ORDERS)
def test_warps_and_atomics(order: str) -> None:
    sums = []
    for n in range(COUNT):
        lane, first = n % 32, n // 32 * 32
        down, up = n + 1 if lane < 31 else n, n - 2 if lane >= 2 else n
        sums.append(float(sum(range(first, first + 32)) + first + 3 + down + up))
    assert values("warp-sums", order) == sums
    assert values("warp-votes", order) == [12.0] * 32 + [1115.0] * 32
    assert values("sums", order)[0] == sum(range(COUNT))


@pytest.mark.parametrize(
    ("kernel", "found"),
    [
        ("past-the-end", "AddressSanitizer: heap-buffer-overflow"),
        ("past-shared-memory", "AddressSanitizer: heap-buffer-overflow"),
        ("past-a-row", f"index {COUNT} out of bounds for type 'float .{COUNT}.'"),
    ],
)
def test_the_sanitizers_find_one_element_too_many(kernel: str, found: str) -> None:
    for order in dispatch.ORDERS:
        assert run(kernel, order, sanitize=True).returncode == 0
        done = run(f"{kernel}-faulty", order, sanitize=True)
        assert done.returncode != 0
        assert re.search(found, done.stderr)


def test_every_file_registers_the_op_of_its_name() -> None:
    found = {name.removeprefix("msr::").removesuffix("_backward") for name in dispatch.shim().ops}
    assert found == {kernel.stem for kernel in KERNELS}


def test_there_is_no_shim_beside_cuda_kernels() -> None:
    dispatch.shim()  # from here on there are some
    with pytest.raises(RuntimeError, match="MSR_CUDA=0"):
        dispatch.Shim(build.cuda_kernels())


def test_the_shim_takes_its_place_only_within() -> None:
    loaded = dispatch.shim()
    x, flow = torch.rand(1, 2, 4, 5), torch.zeros(1, 2, 4, 5)
    before = loaded.launches()
    with loaded.running("forward"):
        msr.ops.flow_warp(x, flow)
    msr.ops.flow_warp(x, flow)
    assert loaded.launches() == before + 1


BFLOAT16 = [
    (test_conv_pixel_shuffle.TestConvPixelShuffle, "tail"),
    (test_conv_pixel_shuffle.TestConvPixelShuffle, "prelu"),
    (test_conv_transpose2d.TestConvTranspose2d, "one-slope"),
    (test_conv_transpose2d.TestConvTranspose2d, "wide"),
]


@pytest.mark.parametrize(("contract", "name"), BFLOAT16)
def test_bfloat16_kernels_that_the_cpu_leaves_to_pytorch(contract, name: str, shim: dispatch.Shim) -> None:
    """The public functions call no kernel for these on the CPU, but do on a GPU; here the op is called itself."""
    sample: Sample = contract.samples[name]
    op = getattr(torch.ops.msr, contract.name).default
    for layout in ("contiguous", "channels_last"):
        tensors = [arrange(t, layout) for t in sample.to(torch.device("cpu"), torch.bfloat16)]
        before = shim.launches()
        got = op(*contract.dispatcher_arguments(tensors, sample.options))
        assert shim.launches() == before + 1
        wide = [None if t is None else t.float() for t in tensors]
        assert got.dtype == torch.bfloat16
        assert_close(got, contract.reference(*wide, **sample.options), torch.bfloat16)


def test_more_tiles_than_one_block_takes(shim: dispatch.Shim) -> None:
    """Sizes around the tiles of 8 x 64 pixels, more filters than a block computes, more channels than a chunk."""
    for (height, width), channels in (((8, 64), 8), ((9, 65), 9)):
        x = torch.randn(2, channels, height, width)
        weight = torch.randn(12, channels, 3, 3) / (9 * channels) ** 0.5
        got = msr.ops.conv_pixel_shuffle(x, weight, None, 2)
        assert_close(got, msr.ops.conv_pixel_shuffle_reference(x, weight, None, 2), torch.float32)
        weight = torch.randn(channels, 3, 4, 4) / (4 * channels) ** 0.5
        got = msr.ops.conv_transpose2d(x, weight, None, 2, 1)
        assert_close(got, msr.ops.conv_transpose2d_reference(x, weight, None, 2, 1), torch.float32)


@pytest.mark.parametrize("name", ["flow_warp", "deform_conv2d"])
def test_deterministic_gradients_use_no_atomics(
    name: str, shim: dispatch.Shim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for them on a GPU, the references compute the gradients; PyTorch's own ops then add in a fixed order."""
    module = importlib.import_module(f"msr.ops.{name}")
    contract = {"flow_warp": test_flow_warp.TestFlowWarp, "deform_conv2d": test_deform_conv2d.TestDeformConv2d}[name]
    sample = next(iter(contract.samples.values()))
    tensors = sample.to(torch.device("cpu"), torch.float32)
    before = shim.atomics()
    expected = contract.gradients(contract.op, tensors, sample.options)
    assert shim.atomics() > before
    monkeypatch.setattr(module, "must_repeat", lambda x: True)  # as on a GPU
    before = shim.atomics()
    for one, other in zip(contract.gradients(contract.op, tensors, sample.options), expected, strict=True):
        assert_close(one, other, torch.float32)
    assert shim.atomics() == before


def test_what_must_repeat() -> None:
    with FakeTensorMode():
        on_gpu, on_cpu = torch.empty(2, device="cuda"), torch.empty(2)
    for asked in (False, True):
        torch.use_deterministic_algorithms(asked)
        try:
            assert must_repeat(on_gpu) is asked
            assert not must_repeat(on_cpu)
        finally:
            torch.use_deterministic_algorithms(False)
