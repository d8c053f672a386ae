"""What the RAW burst network is fed: demosaicking that keeps what was measured, and a way back."""

import pytest
import torch

from msr.camera import PATTERNS, color_masks
from msr.pipelines.raw_input import decode_camera_rgb, demosaic_linear, encode_camera_rgb, encode_mosaics


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaicking_is_exact_where_colors_are_linear(pattern: str) -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    ramp = 0.1 + 0.02 * x + 0.03 * y
    rgb = torch.stack([ramp, ramp + 0.1, ramp - 0.05])
    masks = color_masks(pattern, 9, 12)
    found = demosaic_linear((rgb * masks).sum(dim=0)[None], pattern)[0]
    torch.testing.assert_close(found[:, 2:-2, 2:-2], rgb[:, 2:-2, 2:-2])
    torch.testing.assert_close(found * masks, rgb * masks)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (5, 3)])
def test_any_size(size: tuple[int, int]) -> None:
    out = encode_mosaics(torch.rand(2, *size), "grbg", (2.0, 1.0, 1.5), (0.001, 1e-5))
    assert out.shape == (2, 7, *size)
    assert out.isfinite().all()


def test_measured_values_come_back() -> None:
    gains, mosaics = (2.2, 1.0, 1.6), torch.rand(3, 8, 10) * 1.05 - 0.02
    encoded = encode_mosaics(mosaics, "bggr", gains, (0.001, 1e-5))
    masks = encoded[:, 3:6]
    assert torch.equal(masks[0], color_masks("bggr", 8, 10))
    back = (decode_camera_rgb(encoded[:, :3], gains) * masks).sum(dim=1)
    torch.testing.assert_close(back, mosaics.clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_noise_is_told() -> None:
    levels = [encode_mosaics(torch.rand(1, 4, 4), "rggb", (1.0, 1.0, 1.0), (a, 0.0))[0, 6] for a in (1e-4, 1e-2)]
    assert levels[0].unique().numel() == 1
    torch.testing.assert_close(levels[1], 10 * levels[0])


def test_encoding_and_decoding_are_inverse() -> None:
    rgb, gains = torch.rand(2, 3, 4, 5), (2.0, 1.0, 1.7)
    torch.testing.assert_close(decode_camera_rgb(encode_camera_rgb(rgb, gains), gains), rgb, atol=1e-5, rtol=1e-5)
