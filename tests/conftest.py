"""What every test may ask for: the device to run on, and the samples of an op's contract."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuda_shim import build, dispatch

DEVICES = ("cpu", *(f"shim-{order}" for order in dispatch.ORDERS))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        help="what the ops' tests run on: cpu, cuda, or shim (the CUDA kernels run on the CPU): shim-forward, -reverse "
        "or -shuffled (by the order of the threads of a block); without it on cpu and shim",
    )
    parser.addoption(
        "--sanitize",
        metavar="OPS",
        help="kernels of these ops ('' for all) compiled with the sanitizers, the others not at all (make sanitize)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # cuBLAS repeats its sums only with this, and reads it once.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.getoption("--device") != "cuda":
        # What takes a GPU where there is one, trains and enlarges on the CPU: results are compared to the last bit.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config.addinivalue_line("markers", "once: about what surrounds the kernels; not repeated on the shim")
    config.addinivalue_line(
        "markers", "gradients: about the backward; not repeated on the shim where that has no kernel"
    )
    if (ops := config.getoption("--sanitize")) is not None:
        torch.ops.load_library(build.cpu_kernels(ops.split()))
        dispatch.shim(sanitize=ops.split())


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device to run on; where that is the shim, the ops run their CUDA kernels on tensors of the CPU."""
    name, _, order = getattr(request, "param", "cpu").partition("-")
    if name == "shim":
        with dispatch.shim().running(order):
            yield torch.device("cpu")
        return
    if name == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda, but torch finds no CUDA device")
    # The references are compared in full float32, not in the 10 bits that cuDNN multiplies by default.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield torch.device(name)


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for all but the kernels' own tests: tiny tensors gain nothing from more, and wait on each other."""
    before = torch.get_num_threads()
    ops = Path(__file__).parent / "ops" in request.path.parents
    if not ops or "shim" in request.node.name:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the ops' tests on every device, those of tests/ops/contract.py once for each sample of the op's class."""
    if "device" in metafunc.fixturenames and metafunc.definition.path.parent == Path(__file__).parent / "ops":
        metafunc.parametrize("device", devices(metafunc), indirect=True)
    if metafunc.cls is None or not hasattr(metafunc.cls, "samples"):
        return
    for argument, values in (("sample", metafunc.cls.samples), ("wrong", metafunc.cls.wrong)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, list(values.values()), ids=list(values))


def devices(metafunc: pytest.Metafunc) -> list[str]:
    chosen = metafunc.config.getoption("--device")
    sanitize = metafunc.config.getoption("--sanitize") is not None
    every = ("cpu", "shim-shuffled") if sanitize else DEVICES
    found = [name for name in every if chosen is None or name.startswith(chosen)] or [chosen]
    # The shim runs the same kernels whether msr has its compiled ones or not.
    shim = chosen is not None or sanitize
    shim = shim or (os.environ.get("MSR_EXTENSION") != "0" and build.compiler() is not None)
    shim = shim and not dispatch.real_kernels() and not metafunc.definition.get_closest_marker("once")
    if metafunc.definition.get_closest_marker("gradients"):
        shim = shim and metafunc.cls.cuda_backward
    return [name for name in found if shim or not name.startswith("shim")]
