"""Alignment begins as a plain warp; doubt lies between 0 and 1."""

import pytest
import torch

from msr.nn.alignment import Doubt, FlowGuidedAlignment, flow_phase
from msr.ops import flow_warp


@pytest.mark.parametrize("offset_groups", [1, 4])
@pytest.mark.parametrize("size", [(7, 9), (1, 1)])
def test_untrained_alignment_is_flow_warp(offset_groups: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, reference = torch.rand(2, 8, *size), torch.rand(2, 8, *size)
    flow = 3.0 * torch.randn(2, 2, *size)
    aligned = FlowGuidedAlignment(8, offset_groups)(x, reference, flow)
    torch.testing.assert_close(aligned, flow_warp(x, flow), rtol=1e-4, atol=1e-5)


def test_offsets_leave_the_flow_by_no_more_than_the_limit() -> None:
    # One bright pixel: whatever the learned offsets, it is not seen from further away than the limit and a pixel.
    torch.manual_seed(0)
    align = FlowGuidedAlignment(8, max_residue=2.0)
    torch.nn.init.normal_(align.head.weight, std=10.0)
    x = torch.zeros(1, 8, 21, 21)
    x[..., 10, 10] = 1.0
    with torch.no_grad():
        seen = align(x, torch.rand(1, 8, 21, 21), torch.zeros(1, 2, 21, 21))[0].abs().sum(dim=0)
    assert seen.max().item() > 0.0
    outside = torch.ones(21, 21, dtype=torch.bool)
    outside[7:14, 7:14] = False
    assert seen[outside].max().item() == 0.0


def test_half_precision() -> None:
    align = FlowGuidedAlignment(8).to(torch.bfloat16)
    x, flow = torch.rand(1, 8, 6, 6, dtype=torch.bfloat16), torch.randn(1, 2, 6, 6)
    aligned = align(x, x, flow)
    assert aligned.dtype == torch.bfloat16
    torch.testing.assert_close(aligned.float(), flow_warp(x.float(), flow), rtol=0, atol=0.02)


def test_doubt_is_a_share_that_the_difference_can_lower() -> None:
    torch.manual_seed(0)
    doubt = Doubt(8)
    x = torch.rand(1, 8, 6, 7)
    trust = doubt(x, x, torch.zeros(1, 3, 6, 7))
    assert trust.shape == (1, 1, 6, 7)
    assert 0.0 < trust.min().item() <= trust.max().item() < 1.0
    assert trust.mean().item() > 0.5  # it begins by trusting
    assert not torch.equal(doubt(x, x, torch.ones(1, 3, 6, 7)), trust)


def test_flow_phase_forgets_whole_pixels_only() -> None:
    flow = torch.rand(1, 2, 3, 3)
    torch.testing.assert_close(flow_phase(flow + 5.0), flow_phase(flow), rtol=0, atol=1e-4)
    quarter = flow_phase(torch.full((1, 2, 1, 1), 0.25)).flatten()
    assert quarter.tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-6)
