"""deform_conv2d against its reference and the plain convolution of the same shape, which has no samples to find."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Case
from msr.ops import deform_conv2d, deform_conv2d_reference


def cases(device: torch.device) -> list[Case]:
    """Return comparisons with and without gradients at 1 x 64 x 180 x 320 and twice that, and at a training size."""
    found = []
    for height, width in ((360, 640), (180, 320)):
        large = _arguments((1, 64, height, width), 16, device)
        for layout, name in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "channels_last")):
            given = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in large]
            size = "" if height == 180 else f", {height}x{width}"
            found.append(Case(f"64 to 64{size}, {name}", _without_graph(_calls(*given))))
            # Against the gradients of the plain convolution of the same shape.
            found.append(Case(f"64 to 64{size}, {name}, gradients", _gradients(given, _calls)))
    for dtype in (torch.bfloat16, torch.float16):
        given = [t if n == 1 else t.to(dtype) for n, t in enumerate(large)]  # offsets stay float32
        found.append(Case(f"64 to 64, NCHW, {str(dtype).removeprefix('torch.')}", _without_graph(_calls(*given))))
    # Seconds for each call: apart from the others, so that the figures above get their share of the time.
    reference = _reference(*large)
    found.append(Case("64 to 64, against the reference", _without_graph({**reference, **_calls(*large)})))
    training = _arguments((4, 48, 48, 48), 8, device)
    reference = _reference(*training)
    found.append(Case("48 to 48, 4 x 48 x 48", _without_graph({**reference, **_calls(*training)})))
    found.append(Case("48 to 48, 4 x 48 x 48, gradients", _gradients(training, _with_reference)))
    return found


def _arguments(shape: tuple[int, int, int, int], groups: int, device: torch.device) -> list[Tensor]:
    """Return input, offset (of about a pixel), weight, bias and mask of a 3x3 convolution to as many channels."""
    generator = torch.Generator().manual_seed(0)
    batch, channels, *size = shape
    sizes = (shape, (batch, 18 * groups, *size), (channels, channels, 3, 3), (channels,), (batch, 9 * groups, *size))
    x, offset, weight, bias, mask = (torch.randn(s, generator=generator).to(device) for s in sizes)
    return [x, offset, weight / (9 * channels) ** 0.5, bias, mask.sigmoid()]


def _calls(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {
        "conv2d": lambda: F.conv2d(x, weight, bias, padding=1),
        "deform_conv2d": lambda: deform_conv2d(x, offset, weight, bias, padding=1, mask=mask),
    }


def _reference(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor
) -> dict[str, Callable[[], Tensor]]:
    return {"reference": lambda: deform_conv2d_reference(x, offset, weight, bias, padding=1, mask=mask)}


def _without_graph(calls: dict[str, Callable[[], Tensor]]) -> dict[str, Callable[[], object]]:
    return {name: torch.no_grad()(call) for name, call in calls.items()}


def _with_reference(*tensors: Tensor) -> dict[str, Callable[[], Tensor]]:
    return {**_reference(*tensors), **_calls(*tensors)}


def _gradients(
    tensors: list[Tensor], calls_of: Callable[..., dict[str, Callable[[], Tensor]]]
) -> dict[str, Callable[[], object]]:
    """Time the gradients of all arguments alone: the forward pass is done once, before."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    calls = calls_of(*leaves)

    def again(call: Callable[[], Tensor]) -> Callable[[], object]:
        out = call()
        grad = torch.ones_like(out)
        return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True, allow_unused=True)

    return {name: again(call) for name, call in calls.items()}
