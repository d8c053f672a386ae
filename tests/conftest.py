"""What every test may ask for: the device to run on, and the samples of an op's contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device that the ops' tests run on: cpu (default) or cuda")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.fail("--device cuda, but torch finds no CUDA device")
    return chosen


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for all but the kernels' own tests: tiny tensors gain nothing from more, and wait on each other."""
    before = torch.get_num_threads()
    if Path(__file__).parent / "ops" not in request.path.parents:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of tests/ops/contract.py once for each sample of the op's class."""
    if metafunc.cls is None or not hasattr(metafunc.cls, "samples"):
        return
    for argument, values in (("sample", metafunc.cls.samples), ("wrong", metafunc.cls.wrong)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, list(values.values()), ids=list(values))
