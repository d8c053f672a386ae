"""conv_pixel_shuffle: the contract of every op, the kernels at every factor they serve, and PyTorch's three steps."""

import itertools
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from msr.ops import conv_pixel_shuffle, conv_pixel_shuffle_reference
from ops.contract import OpContract, Sample, arrange, assert_close

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def make(
    shape: tuple[int, int, int, int], out: int, factor: int, bias: bool = True, slopes: int = 0, **options: Any
) -> Sample:
    """Return an input, weights that keep the result near 1, a bias and the slopes of prelu (none: no prelu)."""
    generator = torch.Generator().manual_seed(sum(shape) + out + factor)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    filters = out * factor**2
    tensors = [
        random(*shape),
        random(filters, shape[1], 3, 3) / (shape[1] * 9) ** 0.5,
        random(filters) if bias else None,
    ]
    options = {"upscale_factor": factor, **options}
    if slopes:
        options["activation"] = "prelu"
        tensors.append(random(slopes))
    return Sample(tuple(tensors), options)


def call(function, x, weight, bias, prelu_weight=None, *, upscale_factor, **options):
    return function(x, weight, bias, upscale_factor, prelu_weight=prelu_weight, **options)


class TestConvPixelShuffle(OpContract):
    op = staticmethod(lambda *tensors, **options: call(conv_pixel_shuffle, *tensors, **options))
    reference = staticmethod(lambda *tensors, **options: call(conv_pixel_shuffle_reference, *tensors, **options))
    name = "conv_pixel_shuffle"
    cuda_backward = False

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        x, weight, bias, *slopes = tensors
        return x, weight, bias, options["upscale_factor"], options.get("activation"), slopes[0] if slopes else None

    samples: ClassVar = {
        "tail": make((1, 6, 5, 7), 3, 4, activation="leaky_relu"),
        "batch": make((2, 5, 3, 4), 4, 2, activation="relu"),
        "prelu": make((1, 4, 3, 5), 2, 3, slopes=18),
        "one-slope": make((1, 4, 3, 5), 3, 2, slopes=1),
        "no-bias": make((1, 3, 4, 3), 1, 2, bias=False),
        "one-channel": make((2, 1, 4, 5), 1, 3),
        "factor-1": make((1, 3, 4, 5), 5, 1, activation="relu"),
        "one-pixel": make((1, 3, 1, 1), 4, 2),
        "wide": make((1, 2, 2, 75), 3, 3),
        "no-batch": make((0, 3, 4, 5), 2, 2),
        "no-rows": make((1, 3, 0, 5), 2, 2, activation="relu"),
        "no-columns": make((1, 3, 4, 0), 2, 2),
    }
    other_size = make((1, 6, 8, 4), 3, 4, activation="leaky_relu")
    wrong: ClassVar = {
        "x-3d": lambda: conv_pixel_shuffle(torch.zeros(3, 4, 5), torch.zeros(4, 3, 3, 3), None, 2),
        "channels": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 2, 3, 3), None, 2),
        "kernel": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 5, 5), None, 2),
        "factor": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3), None, 0),
        "filters": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(6, 3, 3, 3), None, 2),
        "dtype": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3).double(), None, 2),
        "integers": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5).int(), torch.zeros(4, 3, 3, 3).int(), None, 2),
        "bias": lambda: conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3), torch.zeros(1), 2),
        "activation": lambda: conv_pixel_shuffle(
            torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3), None, 2, activation="gelu"
        ),
        "no-slopes": lambda: conv_pixel_shuffle(
            torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3), None, 2, activation="prelu"
        ),
        "stray-slopes": lambda: conv_pixel_shuffle(
            torch.zeros(1, 3, 4, 5), torch.zeros(4, 3, 3, 3), None, 2, prelu_weight=torch.zeros(4)
        ),
    }


def test_errors_print_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(4, 2, 3, 3\)"):
        conv_pixel_shuffle(torch.zeros(1, 3, 4, 5), torch.zeros(4, 2, 3, 3), None, 2)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
def test_every_factor(factor: int, device: torch.device) -> None:
    """All activations, group sizes and layouts; widths that do and do not fill the kernels' blocks; 5 has no kernel."""
    for number, (out, width) in enumerate(itertools.product((1, 2, 5), (1, 33, 64, 70))):
        activation = (None, "relu", "leaky_relu", "prelu")[number % 4]
        sample = make((2, 5, 7, width), out, factor, bias=number % 3 > 0)
        for dtype in (torch.float32, torch.float64):
            tensors = [arrange(t, LAYOUTS[number // 2 % 4]) for t in sample.to(device, dtype)]
            filters = out * factor**2
            slopes = torch.linspace(-0.5, 0.5, filters, device=device, dtype=dtype) if activation == "prelu" else None
            options = {"upscale_factor": factor, "activation": activation}
            got = call(conv_pixel_shuffle, *tensors, slopes, **options)
            expected = call(conv_pixel_shuffle_reference, *tensors, slopes, **options)
            assert got.stride() == expected.stride()
            assert_close(got, expected, dtype)


def test_agrees_with_pytorch(device: torch.device) -> None:
    x = torch.randn(2, 8, 11, 13, dtype=torch.float64, device=device)
    weight, bias = torch.randn(12, 8, 3, 3, dtype=x.dtype, device=device), torch.randn(12, dtype=x.dtype, device=device)
    plain = F.conv2d(x, weight, bias, padding=1)
    slopes = torch.linspace(-0.3, 0.3, 12, dtype=x.dtype, device=device)
    expected = {
        None: plain,
        "relu": F.relu(plain),
        "leaky_relu": F.leaky_relu(plain, 0.1),
        "prelu": F.prelu(plain, slopes),
    }
    for activation, value in expected.items():
        prelu_weight = slopes if activation == "prelu" else None
        got = conv_pixel_shuffle(x, weight, bias, 2, activation=activation, prelu_weight=prelu_weight)
        torch.testing.assert_close(got, F.pixel_shuffle(value, 2), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_reach_what_they_touch_alone(bad: float, device: torch.device) -> None:
    x = torch.randn(1, 3, 6, 40, device=device)
    x[0, 1, 3, 20] = bad
    weight = torch.rand(12, 3, 3, 3, device=device) + 0.1
    for activation in (None, "relu", "leaky_relu"):
        got = conv_pixel_shuffle(x, weight, None, 2, activation=activation)
        expected = conv_pixel_shuffle_reference(x, weight, None, 2, activation=activation)
        torch.testing.assert_close(got, expected, equal_nan=True)


def test_only_the_gradients_asked_for(device: torch.device) -> None:
    x, weight, bias = make((1, 3, 4, 5), 2, 2).to(device, torch.float32)
    assert x is not None
    assert weight is not None
    assert bias is not None
    weight.requires_grad_()
    conv_pixel_shuffle(x, weight, bias, 2, activation="relu").sum().backward()
    alone = weight.grad.clone()
    weight.grad = None
    x.requires_grad_()
    bias.requires_grad_()
    conv_pixel_shuffle(x, weight, bias, 2, activation="relu").sum().backward()
    torch.testing.assert_close(weight.grad, alone)
    assert x.grad is not None
    assert bias.grad is not None
