"""conv_transpose2d: the contract of every op, the kernels at every size they serve, and what goes to PyTorch."""

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from msr.ops import conv_transpose2d, conv_transpose2d_reference
from msr.ops._processor import needs_widening
from ops.contract import OpContract, Sample, arrange, assert_close

LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


def make(
    shape: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    bias: bool = True,
    slopes: int = 0,
    **options: Any,
) -> Sample:
    """Return an input, weights that keep the result near 1, a bias and the slopes of prelu (none: no prelu)."""
    generator = torch.Generator().manual_seed(sum(shape) + out + sum(kernel))

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    weight = random(shape[1], out, *kernel) / (shape[1] * kernel[0] * kernel[1]) ** 0.5
    tensors = [random(*shape), weight, random(out) if bias else None]
    if slopes:
        options = {**options, "activation": "prelu"}
        tensors.append(random(slopes))
    return Sample(tuple(tensors), options)


def call(function, input, weight, bias, prelu_weight=None, **options):
    return function(input, weight, bias, prelu_weight=prelu_weight, **options)


class TestConvTranspose2d(OpContract):
    op = staticmethod(lambda *tensors, **options: call(conv_transpose2d, *tensors, **options))
    reference = staticmethod(lambda *tensors, **options: call(conv_transpose2d_reference, *tensors, **options))
    name = "conv_transpose2d"
    cuda_backward = False

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        input, weight, bias, *slopes = tensors

        def pair(name: str, default: int) -> list[int]:
            value = options.get(name, default)
            return [value, value] if isinstance(value, int) else list(value)

        sizes = pair("stride", 1), pair("padding", 0), pair("output_padding", 0), 1, pair("dilation", 1)
        return input, weight, bias, *sizes, options.get("activation"), slopes[0] if slopes else None

    samples: ClassVar = {
        "tail": make((1, 6, 5, 7), 3, (9, 9), stride=4, padding=4, output_padding=3, activation="leaky_relu"),
        "batch": make((2, 5, 3, 4), 4, (4, 4), stride=2, padding=1, activation="relu"),
        "prelu": make((1, 4, 3, 5), 3, (5, 5), stride=3, padding=1, slopes=3),
        "one-slope": make((1, 4, 3, 5), 7, (3, 3), stride=2, padding=1, output_padding=1, slopes=1),
        "no-bias": make((1, 3, 4, 3), 2, (6, 6), bias=False, stride=3, padding=2),
        "one-channel": make((2, 1, 4, 5), 1, (9, 9), stride=2, padding=4, output_padding=1),
        "uneven": make((1, 3, 4, 5), 2, (3, 8), stride=(2, 4), padding=(1, 3), output_padding=(0, 2)),
        "gaps": make((1, 3, 4, 5), 2, (2, 1), stride=(3, 4), activation="leaky_relu"),
        "one-pixel": make((1, 3, 1, 1), 4, (4, 4), stride=2, padding=1),
        "wide": make((1, 2, 2, 75), 5, (4, 4), stride=2, padding=1),
        "no-batch": make((0, 3, 4, 5), 2, (4, 4), stride=2, padding=1),
    }
    other_size = make((1, 6, 8, 4), 3, (9, 9), stride=4, padding=4, output_padding=3, activation="leaky_relu")
    wrong: ClassVar = {
        "input-3d": lambda: conv_transpose2d(torch.zeros(3, 4, 5), torch.zeros(3, 2, 4, 4)),
        "channels": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(4, 2, 4, 4)),
        "no-pixels": lambda: conv_transpose2d(torch.zeros(1, 3, 0, 5), torch.zeros(3, 2, 4, 4)),
        "no-output": lambda: conv_transpose2d(torch.zeros(1, 3, 1, 1), torch.zeros(3, 2, 2, 2), None, 2, 2),
        "dtype": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4).double()),
        "integers": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5).int(), torch.zeros(3, 2, 4, 4).int()),
        "bias": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), torch.zeros(3)),
        "stride": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), None, 0),
        "three-strides": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), None, (2, 2, 2)),
        "output-padding": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), None, 2, 1, 2),
        "groups": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), groups=2),
        "activation": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), activation="gelu"),
        "no-slopes": lambda: conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), activation="prelu"),
        "slopes": lambda: conv_transpose2d(
            torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), activation="prelu", prelu_weight=torch.zeros(3)
        ),
        "stray-slopes": lambda: conv_transpose2d(
            torch.zeros(1, 3, 4, 5), torch.zeros(3, 2, 4, 4), prelu_weight=torch.zeros(2)
        ),
    }


def test_errors_print_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\).*float32.*\(4, 2, 3, 3\)"):
        conv_transpose2d(torch.zeros(1, 3, 4, 5), torch.zeros(4, 2, 3, 3))


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("kernel", range(1, 10))
def test_every_size_of_the_kernels(kernel: int, stride: int, device: torch.device) -> None:
    """All activations, paddings, group sizes and layouts; widths that do and do not fill the kernels' blocks."""
    paddings = ((0, 0), (kernel // 2, stride - 1), (kernel + 1, 1))
    for number, out in enumerate((1, 2, 3, 5, 13)):
        padding, extra = paddings[(number + kernel) % 3]
        activation = (None, "relu", "leaky_relu", "prelu")[(number + stride) % 4]
        options = {"stride": stride, "padding": padding, "output_padding": extra}
        sample = make((1, 5, 9, 31 + 8 * number), out, (kernel, kernel), bias=number > 0, **options)
        for dtype in (torch.float32, torch.float64):
            tensors = [arrange(t, LAYOUTS[(number + kernel // 2) % 4]) for t in sample.to(device, dtype)]
            slopes = torch.linspace(-0.5, 0.5, out, device=device, dtype=dtype) if activation == "prelu" else None
            given = (*tensors, slopes)
            got = call(conv_transpose2d, *given, activation=activation, **options)
            expected = call(conv_transpose2d_reference, *given, activation=activation, **options)
            assert got.stride() == expected.stride()
            assert_close(got, expected, dtype)


@pytest.mark.parametrize(
    "options",
    [{"stride": 1}, {"stride": 5}, {"groups": 2, "stride": 2}, {"dilation": 2, "stride": 2}, {"stride": (2, 1)}],
)
def test_all_else_is_pytorchs(options: dict[str, Any], device: torch.device) -> None:
    x, weight = torch.randn(1, 4, 5, 6, device=device), torch.randn(4, 3, 3, 3, device=device)
    assert torch.equal(conv_transpose2d(x, weight, **options), F.conv_transpose2d(x, weight, **options))
    large = torch.randn(4, 3, 11, 11, device=device)
    assert torch.equal(conv_transpose2d(x, large, stride=2), F.conv_transpose2d(x, large, stride=2))


def test_agrees_with_pytorch(device: torch.device) -> None:
    x = torch.randn(2, 8, 11, 13, dtype=torch.float64, device=device)
    weight, bias = torch.randn(8, 3, 9, 9, dtype=x.dtype, device=device), torch.randn(3, dtype=x.dtype, device=device)
    plain = F.conv_transpose2d(x, weight, bias, 4, 4, 3)
    slopes = torch.tensor([0.3, -0.2, 0.0], dtype=x.dtype, device=device)
    expected = {
        None: plain,
        "relu": F.relu(plain),
        "leaky_relu": F.leaky_relu(plain, 0.1),
        "prelu": F.prelu(plain, slopes),
    }
    for activation, value in expected.items():
        prelu_weight = slopes if activation == "prelu" else None
        got = conv_transpose2d(x, weight, bias, 4, 4, 3, activation=activation, prelu_weight=prelu_weight)
        torch.testing.assert_close(got, value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_reach_what_they_touch_alone(bad: float, device: torch.device) -> None:
    x = torch.randn(1, 3, 6, 40, device=device)
    x[0, 1, 3, 20] = bad
    weight = torch.rand(3, 2, 4, 4, device=device) + 0.1
    for activation in (None, "relu", "leaky_relu"):
        got = conv_transpose2d(x, weight, None, 2, 1, activation=activation)
        torch.testing.assert_close(
            got, conv_transpose2d_reference(x, weight, None, 2, 1, activation=activation), equal_nan=True
        )


def test_only_the_gradients_asked_for(device: torch.device) -> None:
    x, weight, bias = make((1, 3, 4, 5), 2, (4, 4), stride=2).to(device, torch.float32)
    assert x is not None
    assert weight is not None
    assert bias is not None
    weight.requires_grad_()
    conv_transpose2d(x, weight, bias, 2, activation="relu").sum().backward()
    alone = weight.grad.clone()
    weight.grad = None
    x.requires_grad_()
    bias.requires_grad_()
    conv_transpose2d(x, weight, bias, 2, activation="relu").sum().backward()
    torch.testing.assert_close(weight.grad, alone)
    assert x.grad is not None
    assert bias.grad is not None


@pytest.mark.parametrize("settings", [{"stride": 1}, {"stride": 2, "groups": 4}, {"stride": 2, "dilation": 2}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_are_float32_where_no_kernel_is(dtype: torch.dtype, settings: dict[str, int], device) -> None:
    if device.type != "cpu" or not needs_widening(dtype, device):
        pytest.skip("PyTorch's own sums are float32 here")
    x, weight = torch.randn(1, 64, 6, 7, device=device).to(dtype), torch.randn(64, 8, 3, 3, device=device).to(dtype)
    got = conv_transpose2d(x, weight, **settings)
    exact = conv_transpose2d(x.double(), weight.double(), **settings)
    assert (got == exact.to(dtype)).float().mean() > 0.98  # the others lie between two numbers


def test_gradients_do_not_take_autocast_s_precision(device: torch.device) -> None:
    x, weight = torch.randn(1, 16, 6, 7, device=device), torch.randn(16, 8, 4, 4, device=device, requires_grad=True)
    slopes = torch.full((8,), 0.2, device=device)

    def gradient(autocast: bool) -> torch.Tensor:
        out = conv_transpose2d(x, weight, stride=2, activation="prelu", prelu_weight=slopes)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            return torch.autograd.grad(out.square().sum(), weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False))
