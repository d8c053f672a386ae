"""flow_guided_deform_conv2d: the contract of every op, a direct loop for the positions, and flows that lead nowhere."""

import itertools
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from msr.ops import deform_conv2d_reference, flow_guided_deform_conv2d, flow_guided_deform_conv2d_reference
from ops.contract import OpContract, Sample, assert_close


def make(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    groups: int,
    flows: int = 1,
    *,
    bias: bool = True,
    max_residue: float = 0.4,
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Sample:
    """Return arguments whose samples stay away from the kinks at integers: whole flows and a half, small residues."""
    generator = torch.Generator().manual_seed(sum(shape) + 7 * sum(weight) + groups)

    def randn(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    out = [shape[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) for i in (0, 1)]
    head = randn(shape[0], 3 * groups * weight[2] * weight[3], *out)
    flow = (2 * randn(shape[0], 2 * flows, *out)).floor() + 0.5
    kernel = randn(*weight) / math.sqrt(weight[1] * weight[2] * weight[3])
    options = {"max_residue": max_residue, "padding": padding, "dilation": dilation}
    return Sample((randn(*shape), head, flow, kernel, randn(weight[0]) if bias else None), options, (1, 2))


class TestFlowGuidedDeformConv2d(OpContract):
    op = staticmethod(flow_guided_deform_conv2d)
    reference = staticmethod(flow_guided_deform_conv2d_reference)
    name = "flow_guided_deform_conv2d"

    samples: ClassVar = {
        "one-flow": make((2, 6, 7, 9), (5, 6, 3, 3), 1),
        "two-flows": make((1, 16, 6, 11), (20, 16, 3, 3), 4, 2),
        "three-flows": make((1, 12, 5, 6), (4, 12, 3, 3), 6, 3, bias=False),
        "groups": make((1, 12, 5, 6), (6, 4, 3, 3), 2, 2),
        "kernel": make((1, 4, 6, 8), (3, 4, 1, 5), 2, padding=(0, 2)),
        "dilation": make((1, 4, 9, 8), (3, 4, 3, 3), 2, padding=(2, 1), dilation=(2, 1)),
        "many-pixels": make((1, 8, 13, 131), (4, 8, 3, 3), 2),
        "no-batch": make((0, 4, 5, 5), (3, 4, 3, 3), 1),
        "no-target": make((1, 4, 2, 5), (3, 4, 3, 3), 1, padding=(0, 0)),
    }

    other_size = make((2, 6, 8, 12), (5, 6, 3, 3), 1)

    @staticmethod
    def _wrong(**changed: Any) -> Any:
        given: dict[str, Any] = {
            "x": torch.zeros(1, 8, 5, 5),
            "head": torch.zeros(1, 108, 5, 5),
            "flows": torch.zeros(1, 4, 5, 5),
            "weight": torch.zeros(6, 8, 3, 3),
        }
        return flow_guided_deform_conv2d(**{**given, **changed})

    wrong: ClassVar = {
        "x-3d": lambda: TestFlowGuidedDeformConv2d._wrong(x=torch.zeros(8, 5, 5)),
        "channels": lambda: TestFlowGuidedDeformConv2d._wrong(weight=torch.zeros(6, 3, 3, 3)),
        "out-channels": lambda: TestFlowGuidedDeformConv2d._wrong(weight=torch.zeros(5, 4, 3, 3)),
        "head-channels": lambda: TestFlowGuidedDeformConv2d._wrong(head=torch.zeros(1, 107, 5, 5)),
        "head-groups": lambda: TestFlowGuidedDeformConv2d._wrong(head=torch.zeros(1, 81, 5, 5)),
        "head-size": lambda: TestFlowGuidedDeformConv2d._wrong(head=torch.zeros(1, 108, 5, 4)),
        "no-flows": lambda: TestFlowGuidedDeformConv2d._wrong(flows=torch.zeros(1, 0, 5, 5)),
        "flows-odd": lambda: TestFlowGuidedDeformConv2d._wrong(flows=torch.zeros(1, 3, 5, 5)),
        "flows-groups": lambda: TestFlowGuidedDeformConv2d._wrong(flows=torch.zeros(1, 6, 5, 5)),
        "flows-batch": lambda: TestFlowGuidedDeformConv2d._wrong(flows=torch.zeros(2, 4, 5, 5)),
        "bias": lambda: TestFlowGuidedDeformConv2d._wrong(bias=torch.zeros(5)),
        "dtype": lambda: TestFlowGuidedDeformConv2d._wrong(weight=torch.zeros(6, 8, 3, 3, dtype=torch.float64)),
        "integers": lambda: TestFlowGuidedDeformConv2d._wrong(flows=torch.zeros(1, 4, 5, 5, dtype=torch.int32)),
        "too-small": lambda: TestFlowGuidedDeformConv2d._wrong(padding=0, dilation=9),
    }


def test_errors_print_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"x \(1, 4, 5, 5\) torch.float32.*flows \(1, 2, 5, 6\)"):
        flow_guided_deform_conv2d(
            torch.zeros(1, 4, 5, 5), torch.zeros(1, 27, 5, 5), torch.zeros(1, 2, 5, 6), torch.zeros(6, 4, 3, 3)
        )


@pytest.mark.parametrize("flows", [1, 2])
def test_agrees_with_positions_made_one_by_one(flows: int, device: torch.device) -> None:
    groups, taps, reach = 4, 9, 3.0
    sample = make((2, 8, 4, 5), (3, 8, 3, 3), groups, flows, max_residue=reach)
    x, head, flow, weight, bias = sample.to(device, torch.float64)
    assert head is not None
    assert flow is not None
    offset = torch.zeros(2, 2 * groups * taps, 4, 5, dtype=torch.float64)
    mask = torch.zeros(2, groups * taps, 4, 5, dtype=torch.float64)
    for b, group, tap, i, j in itertools.product(range(2), range(groups), range(taps), range(4), range(5)):
        number, which = group * taps + tap, group * flows // groups
        for axis in (0, 1):  # down, right
            residue = math.tanh(float(head[b, 2 * number + axis, i, j]))
            offset[b, 2 * number + axis, i, j] = reach * residue + float(flow[b, 2 * which + 1 - axis, i, j])
        mask[b, number, i, j] = 1 / (1 + math.exp(-float(head[b, 2 * groups * taps + number, i, j])))
    expected = deform_conv2d_reference(x, offset.to(device), weight, bias, 1, 1, 1, mask.to(device))
    for op in (flow_guided_deform_conv2d, flow_guided_deform_conv2d_reference):
        assert_close(op(x, head, flow, weight, bias, max_residue=reach), expected, torch.float64)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_flows_that_lead_nowhere(bad: float, device: torch.device) -> None:
    """All samples of a pixel lie nowhere: what is left there is the bias, and no gradient becomes infinite."""
    tensors = make((1, 8, 6, 7), (4, 8, 3, 3), 2).to(device, torch.float32)
    x, head, flow, weight, bias = tensors
    assert flow is not None
    assert bias is not None
    flow[0, 0, 2, 3] = bad
    leaves = [t.detach().requires_grad_() for t in tensors if t is not None]
    out = flow_guided_deform_conv2d(*leaves, max_residue=0.4)
    assert torch.equal(out[0, :, 2, 3], bias)
    assert_close(out, flow_guided_deform_conv2d_reference(x, head, flow, weight, bias, max_residue=0.4), torch.float32)
    grads = torch.autograd.grad(out.square().sum(), leaves)
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_extreme_heads(bad: float, device: torch.device) -> None:
    """Residues saturate, NaN leads nowhere, and strengths of infinity are zero or one."""
    x, head, flow, weight, bias = make((1, 8, 6, 7), (4, 8, 3, 3), 2, max_residue=2.0).to(device, torch.float32)
    assert head is not None
    head[0, 5, 2, 3] = bad
    if not math.isnan(bad):
        head[0, 40, 1, 1] = bad
    got = flow_guided_deform_conv2d(x, head, flow, weight, bias, max_residue=2.0)
    assert_close(got, flow_guided_deform_conv2d_reference(x, head, flow, weight, bias, max_residue=2.0), torch.float32)


def test_autocast(device: torch.device) -> None:
    x, head, flow, weight, bias = make((1, 8, 6, 7), (4, 8, 3, 3), 2).to(device, torch.float32)
    with torch.autocast(device.type, torch.bfloat16):
        out = flow_guided_deform_conv2d(x, head, flow, weight, bias, max_residue=0.4)
    assert out.dtype == torch.bfloat16
    expected = flow_guided_deform_conv2d_reference(x, head, flow, weight, bias, max_residue=0.4)
    assert_close(out, expected, torch.bfloat16)
