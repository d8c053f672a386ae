"""deform_conv2d: the contract of every op, a direct loop, conv2d, and offsets that point nowhere."""

import itertools
import math
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops import deform_conv2d, deform_conv2d_reference
from ops.contract import OpContract, Sample, assert_close


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def make(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    offset_groups: int,
    *,
    bias: bool = True,
    mask: bool = True,
    reach: float = 2.0,
    **options: Any,
) -> Sample:
    """Return arguments with offsets of about `reach` pixels that stay away from the kinks at integers."""
    stride, padding, dilation = (pair(options.get(n, d)) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
    generator = torch.Generator().manual_seed(sum(shape) + 7 * sum(weight))

    def randn(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    out = [(shape[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    samples = (shape[0], offset_groups * weight[2] * weight[3], *out)
    offset = randn(samples[0], 2 * samples[1], *out) * reach
    offset = offset.floor() + 0.1 + 0.8 * torch.rand(offset.shape, generator=generator, dtype=torch.float64)
    strength = torch.rand(samples, generator=generator, dtype=torch.float64) if mask else None
    kernel = randn(*weight) / math.sqrt(weight[1] * weight[2] * weight[3])
    return Sample((randn(*shape), offset, kernel, randn(weight[0]) if bias else None, strength), options, (1,))


def with_mask_in_place(op):
    """The contract passes tensors by position, the public function takes the mask last."""

    def call(input, offset, weight, bias, mask, **options):
        return op(input, offset, weight, bias, mask=mask, **options)

    return call


class TestDeformConv2d(OpContract):
    op = staticmethod(with_mask_in_place(deform_conv2d))
    reference = staticmethod(with_mask_in_place(deform_conv2d_reference))
    name = "deform_conv2d"

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        defaults = (("stride", 1), ("padding", 0), ("dilation", 1))
        return (*tensors, *(list(pair(options.get(name, value))) for name, value in defaults))

    samples: ClassVar = {
        "plain": make((2, 6, 7, 9), (5, 6, 3, 3), 1, padding=1),
        "version-1": make((1, 4, 6, 5), (3, 4, 3, 3), 2, mask=False, bias=False, padding=1),
        "offset-groups": make((1, 16, 6, 11), (20, 16, 3, 3), 4, padding=1),
        "groups": make((1, 12, 5, 6), (6, 4, 3, 3), 2, padding=1),
        "more-groups": make((1, 8, 6, 5), (4, 2, 3, 1), 8, bias=False),
        "depthwise": make((1, 6, 5, 6), (6, 1, 3, 3), 3, padding=1),
        "stride": make((1, 3, 9, 12), (4, 3, 3, 2), 1, stride=(2, 3), padding=(1, 0)),
        "dilation": make((1, 4, 9, 8), (3, 4, 3, 3), 2, dilation=(2, 1), padding=(2, 1), mask=False),
        "wide-output": make((1, 4, 3, 70), (70, 4, 1, 1), 1),
        "many-pixels": make((1, 8, 23, 31), (4, 8, 3, 3), 2, padding=1),
        "long-rows": make((1, 4, 2, 131), (2, 4, 3, 3), 1, padding=1),
        "far": make((1, 4, 5, 5), (3, 4, 3, 3), 1, reach=20.0, padding=1),
        "one-pixel": make((1, 3, 1, 1), (2, 3, 1, 1), 1),
        "no-batch": make((0, 4, 5, 5), (3, 4, 3, 3), 1, padding=1),
        "no-source": make((1, 4, 0, 5), (3, 4, 3, 3), 1, padding=2),
        "no-target": make((1, 4, 2, 5), (3, 4, 3, 3), 1),
    }

    other_size = make((2, 6, 8, 12), (5, 6, 3, 3), 1, padding=1)

    @staticmethod
    def _wrong(**changed: Any) -> Any:
        given: dict[str, Any] = {
            "input": torch.zeros(1, 4, 5, 5),
            "offset": torch.zeros(1, 36, 5, 5),
            "weight": torch.zeros(6, 2, 3, 3),
            "mask": torch.zeros(1, 18, 5, 5),
            "padding": 1,
        }
        return deform_conv2d(**{**given, **changed})

    wrong: ClassVar = {
        "input-3d": lambda: TestDeformConv2d._wrong(input=torch.zeros(4, 5, 5)),
        "channels": lambda: TestDeformConv2d._wrong(input=torch.zeros(1, 5, 5, 5)),
        "out-channels": lambda: TestDeformConv2d._wrong(weight=torch.zeros(5, 2, 3, 3)),
        "offset-channels": lambda: TestDeformConv2d._wrong(offset=torch.zeros(1, 35, 5, 5)),
        "offset-groups": lambda: TestDeformConv2d._wrong(offset=torch.zeros(1, 54, 5, 5), mask=None),
        "offset-size": lambda: TestDeformConv2d._wrong(offset=torch.zeros(1, 36, 4, 5)),
        "offset-batch": lambda: TestDeformConv2d._wrong(offset=torch.zeros(2, 36, 5, 5)),
        "no-offset-groups": lambda: TestDeformConv2d._wrong(offset=torch.zeros(1, 0, 5, 5), mask=None),
        "mask": lambda: TestDeformConv2d._wrong(mask=torch.zeros(1, 9, 5, 5)),
        "bias": lambda: TestDeformConv2d._wrong(bias=torch.zeros(5)),
        "dtype": lambda: TestDeformConv2d._wrong(weight=torch.zeros(6, 2, 3, 3, dtype=torch.float64)),
        "integers": lambda: TestDeformConv2d._wrong(offset=torch.zeros(1, 36, 5, 5, dtype=torch.int32)),
        "too-small": lambda: TestDeformConv2d._wrong(padding=0, dilation=9),
        "stride-0": lambda: TestDeformConv2d._wrong(stride=0),
        "padding-negative": lambda: TestDeformConv2d._wrong(padding=(1, -1)),
        "dilation-triple": lambda: TestDeformConv2d._wrong(dilation=(1, 1, 1)),
    }


def test_errors_print_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"input \(1, 4, 5, 5\) torch.float32.*weight \(6, 3, 3, 3\)"):
        deform_conv2d(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 3, 3), torch.zeros(6, 3, 3, 3))


def direct_loop(sample: Sample) -> Tensor:
    """The definition, one multiplication at a time, sharing nothing with the reference."""
    image, offset, weight, bias, mask = (None if t is None else t.numpy() for t in sample.tensors)
    assert image is not None
    assert offset is not None
    assert weight is not None
    stride, padding, dilation = (
        pair(sample.options.get(n, d)) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    batch, channels, height, width = image.shape
    out_channels, per_group, kernel_h, kernel_w = weight.shape
    offset_groups = offset.shape[1] // (2 * kernel_h * kernel_w)
    out = torch.zeros(batch, out_channels, *offset.shape[2:], dtype=torch.float64)
    for b, o, i, j in itertools.product(*(range(n) for n in out.shape)):
        total = 0.0 if bias is None else float(bias[o])
        first = o // (out_channels // (channels // per_group)) * per_group
        for c, ki, kj in itertools.product(range(per_group), range(kernel_h), range(kernel_w)):
            group = (first + c) // (channels // offset_groups)
            number = (group * kernel_h + ki) * kernel_w + kj
            y = i * stride[0] - padding[0] + ki * dilation[0] + float(offset[b, 2 * number, i, j])
            x = j * stride[1] - padding[1] + kj * dilation[1] + float(offset[b, 2 * number + 1, i, j])
            value = 0.0
            for row, column in itertools.product(
                (math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)
            ):
                if 0 <= row < height and 0 <= column < width:
                    value += float(image[b, first + c, row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
            total += value * float(weight[o, c, ki, kj]) * (1.0 if mask is None else float(mask[b, number, i, j]))
        out[b, o, i, j] = total
    return out


@pytest.mark.parametrize(
    "sample",
    [
        make((2, 4, 4, 5), (3, 4, 3, 3), 2, padding=1),
        make((1, 6, 5, 4), (4, 3, 2, 3), 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        make((1, 4, 4, 4), (4, 1, 3, 3), 1, padding=1, mask=False, bias=False),
    ],
    ids=["offset-groups", "everything", "version-1"],
)
def test_agrees_with_a_direct_loop(sample: Sample, device: torch.device) -> None:
    tensors = sample.to(device, torch.float64)
    expected = direct_loop(sample).to(device)
    assert_close(TestDeformConv2d.op(*tensors, **sample.options), expected, torch.float64)
    assert_close(TestDeformConv2d.reference(*tensors, **sample.options), expected, torch.float64)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2}, {"dilation": (1, 2), "padding": (0, 2)}])
def test_without_offsets_it_is_conv2d(settings: dict[str, Any], groups: int, device: torch.device) -> None:
    x = torch.randn(2, 8, 9, 10, device=device)
    weight, bias = torch.randn(6, 8 // groups, 3, 3, device=device), torch.randn(6, device=device)
    expected = F.conv2d(x, weight, bias, groups=groups, **settings)
    offset = torch.zeros(2, 2 * 4 * 9, *expected.shape[2:], device=device)
    mask = torch.ones(2, 4 * 9, *expected.shape[2:], device=device)
    for given in (None, mask):
        assert_close(deform_conv2d(x, offset, weight, bias, mask=given, **settings), expected, torch.float32)


def test_numbers_and_pairs_mean_the_same(device: torch.device) -> None:
    x, offset = torch.randn(1, 4, 9, 9, device=device), torch.randn(1, 18, 4, 4, device=device)
    weight = torch.randn(3, 4, 3, 3, device=device)
    numbers = deform_conv2d(x, offset, weight, None, 2, 1, 2)
    pairs = deform_conv2d(x, offset, weight, None, (2, 2), (1, 1), (2, 2))
    assert torch.equal(numbers, pairs)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_offsets_that_point_nowhere(bad: float, axis: int, layout: torch.memory_format, device: torch.device) -> None:
    """A tap sent nowhere counts as zero, the others as ever, and no gradient becomes infinite."""
    sample = make((1, 8, 6, 7), (4, 8, 3, 3), 2, padding=1)
    x, offset, weight, bias, mask = sample.to(device, torch.float32)
    assert x is not None
    assert offset is not None
    assert mask is not None
    x = x.contiguous(memory_format=layout)
    without = mask.clone()
    without[0, 12, 2, 3] = 0
    expected = TestDeformConv2d.reference(x, offset, weight, bias, without, padding=1)
    offset[0, 24 + axis, 2, 3] = bad
    leaves = [t.detach().requires_grad_() for t in (x, offset, weight, bias, mask)]
    out = TestDeformConv2d.op(*leaves, padding=1)
    assert_close(out, expected, torch.float32)
    grads = torch.autograd.grad(out.square().sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[1][0, 24:26, 2, 3] == 0).all()
    assert grads[4][0, 12, 2, 3] == 0


def test_all_offsets_nan(device: torch.device) -> None:
    """Nothing of the image is read, not even times zero: NaN pixels stay out of the result."""
    x = torch.full((1, 8, 5, 40), math.nan, device=device)
    offset = torch.full((1, 36, 5, 40), math.nan, device=device)
    bias = torch.arange(3.0, device=device)
    for op in (deform_conv2d, deform_conv2d_reference):
        out = op(x, offset, torch.ones(3, 8, 3, 3, device=device), bias, padding=1)
        assert torch.equal(out, bias.view(3, 1, 1).expand(1, 3, 5, 40))


@pytest.mark.parametrize("position", [-1.5, -1.0, -0.25, 0.0, 2.75, 3.0, 3.5, 4.0, 4.5])
def test_edges(position: float, device: torch.device) -> None:
    """Bilinear against zeros outside: between the edge and one pixel beyond it the image fades out."""
    image = torch.tensor([5.0, 6.0, 7.0, 8.0], dtype=torch.float64, device=device)
    offset = torch.tensor([0.0, position], dtype=torch.float64, device=device).view(1, 2, 1, 1)
    padded = [0.0, 0.0, *image.tolist(), 0.0, 0.0, 0.0]
    left = math.floor(position)
    expected = padded[left + 2] * (1 - position + left) + padded[left + 3] * (position - left)
    for across in (True, False):
        x = image.view(1, 1, 1, 4) if across else image.view(1, 1, 4, 1)
        where = offset if across else offset.flip(1)
        where = F.pad(where, (0, 3, 0, 0)) if across else F.pad(where, (0, 0, 0, 3))
        out = deform_conv2d(x, where, torch.ones(1, 1, 1, 1, dtype=torch.float64, device=device))
        assert out.flatten()[0].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_offsets_keep_their_precision(dtype: torch.dtype, device: torch.device) -> None:
    """Offsets in float32 beside features in less: rounding them first would move the samples."""
    x, offset, weight, bias, mask = make((1, 8, 6, 70), (4, 8, 3, 3), 2, padding=1, reach=9.0).to(device, dtype)
    assert offset is not None
    assert offset.dtype == torch.float32
    assert mask is not None
    out = TestDeformConv2d.op(x, offset, weight, bias, mask.float(), padding=1)
    wide = [t.float() for t in (x, offset, weight, bias, mask) if t is not None]
    assert out.dtype == dtype
    assert_close(out, TestDeformConv2d.reference(*wide, padding=1), dtype)


def test_autocast(device: torch.device) -> None:
    x, offset, weight, bias, mask = make((1, 8, 6, 7), (4, 8, 3, 3), 2, padding=1).to(device, torch.float32)
    assert weight is not None
    weight.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        out = TestDeformConv2d.op(x, offset, weight, bias, mask, padding=1)
    assert out.dtype == torch.bfloat16
    assert_close(out, TestDeformConv2d.reference(x, offset, weight, bias, mask, padding=1), torch.bfloat16)
    out.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_many_offset_groups(groups: int, threads: int, layout: torch.memory_format) -> None:
    """On the CPU a thread takes some offset groups at once, and how many depends on the number of threads."""
    sample = make((2, 40, 5, 60), (32, 40 // groups, 3, 3), 10, padding=1)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for dtype, op in ((torch.float32, deform_conv2d), (torch.float64, deform_conv2d_reference)):
        x, offset, weight, bias, mask = sample.to(torch.device("cpu"), dtype)
        assert x is not None
        assert offset is not None
        leaves = [x.contiguous(memory_format=layout), offset.contiguous(memory_format=layout), weight, bias, mask]
        leaves = [t.detach().requires_grad_() for t in leaves if t is not None]
        out = with_mask_in_place(op)(*leaves, padding=1)
        weigh = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out).contiguous(memory_format=layout)
        results.append(torch.autograd.grad(out, leaves, weigh))
    torch.set_num_threads(before)
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, torch.float32)


def test_only_the_gradients_asked_for(device: torch.device) -> None:
    tensors = make((1, 4, 5, 6), (3, 4, 3, 3), 1, padding=1).to(device, torch.float32)
    every = [t.detach().requires_grad_() for t in tensors if t is not None]
    TestDeformConv2d.op(*every, padding=1).sum().backward()
    for wanted in range(len(tensors)):
        leaves = [t.detach().requires_grad_(n == wanted) for n, t in enumerate(tensors) if t is not None]
        TestDeformConv2d.op(*leaves, padding=1).sum().backward()
        torch.testing.assert_close(leaves[wanted].grad, every[wanted].grad)
        assert [leaf.grad is not None for leaf in leaves] == [n == wanted for n in range(len(leaves))]
