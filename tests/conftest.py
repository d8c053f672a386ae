"""What every test may ask for: the device to run on, and the samples of an op's contract."""

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of tests/ops/contract.py once for each sample of the op's class."""
    if metafunc.cls is None or not hasattr(metafunc.cls, "samples"):
        return
    for argument, values in (("sample", metafunc.cls.samples), ("wrong", metafunc.cls.wrong)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, list(values.values()), ids=list(values))
