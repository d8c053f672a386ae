"""Convolutional blocks: shapes, what attention does, and how gently they start."""

import pytest
import torch

from msr.nn.blocks import ChannelAttention, ResidualBlock, Trunk, conv3x3, join, weigh


@pytest.mark.parametrize("size", [(5, 6), (1, 1)])
def test_blocks_keep_the_shape(size: tuple[int, int]) -> None:
    x = torch.rand(2, 8, *size)
    for block in (conv3x3(8, 8), ChannelAttention(8), ResidualBlock(8), ResidualBlock(8, attention=False), Trunk(8, 2)):
        assert block(x).shape == x.shape


@pytest.mark.parametrize("first", [torch.contiguous_format, torch.channels_last])
def test_joined_channels_are_laid_out_as_the_first(first: torch.memory_format) -> None:
    x = torch.rand(1, 4, 5, 6).to(memory_format=first)
    # One channel, planes, channels_last, and a picture taken out of several, whose batch stride says nothing.
    others = [torch.rand(1, 1, 5, 6), torch.rand(1, 2, 5, 6)]
    others += [torch.rand(1, 3, 5, 6).to(memory_format=torch.channels_last)]
    others += [torch.rand(1, 3, 5, 6, 2).permute(0, 1, 4, 2, 3)[:, 1]]
    joined = join([x, *others])
    assert torch.equal(joined, torch.cat([x, *others], dim=1))
    assert joined.stride() == torch.empty_like(joined, memory_format=first).stride()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weighed_channels_are_a_product_laid_out_as_before(layout: torch.memory_format) -> None:
    x, weight = torch.rand(2, 4, 5, 6).to(memory_format=layout), torch.rand(2, 1, 5, 6)
    weighed = weigh(x, weight)
    assert torch.equal(weighed, x * weight)
    assert weighed.stride() == x.stride()


def test_gain_scales_the_weights_and_zero_silences() -> None:
    torch.manual_seed(0)
    plain = conv3x3(8, 8)
    torch.manual_seed(0)
    small = conv3x3(8, 8, gain=0.5)
    torch.testing.assert_close(small.weight, plain.weight * 0.5)
    assert conv3x3(8, 4, gain=0.0)(torch.rand(1, 8, 3, 3)).abs().max().item() == 0.0


def test_attention_scales_whole_channels_by_a_gate_of_the_means() -> None:
    attention = ChannelAttention(8)
    x = torch.rand(2, 8, 4, 5) + 0.5
    gate = attention(x) / x
    torch.testing.assert_close(gate, gate[..., :1, :1].expand_as(gate))
    assert 0.0 < gate.min().item() < gate.max().item() < 1.0
    # Only the means count: the same pixels in another order have the same gate.
    shuffled = x.flatten(2)[..., torch.randperm(20)].view_as(x)
    torch.testing.assert_close(attention(shuffled) / shuffled, gate)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_takes_its_means_in_half_precision_as_well(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    attention = ChannelAttention(8)
    x = torch.randn(2, 8, 33, 70) + torch.arange(8.0).view(1, 8, 1, 1)
    half = attention.to(torch.bfloat16)(x.bfloat16().to(memory_format=layout)).float()
    torch.testing.assert_close(half, attention.float()(x), rtol=0.03, atol=0.02)


def test_attention_has_at_least_four_hidden_units() -> None:
    assert ChannelAttention(8).squeeze.out_features == 4
    assert ChannelAttention(64).squeeze.out_features == 16


def test_a_residual_block_without_its_second_convolution_is_the_identity() -> None:
    block = ResidualBlock(8)
    x = torch.rand(1, 8, 4, 4)
    assert not torch.equal(block(x), x)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), x)
