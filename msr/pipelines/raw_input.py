"""RAW frames as the burst network takes them, and its result back as linear camera RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.camera import color_masks, inverse_srgb_curve, per_channel, srgb_curve
from msr.pipelines.handheld.align import Aligner
from msr.pipelines.handheld.gray import gray_of

# Malvar et al. 2004, in eighths: green where there is none; red beside red and blue above blue, and the other way
# round; red at blue and blue at red.
_GREEN = ((0, 0, -1, 0, 0), (0, 0, 2, 0, 0), (-1, 2, 4, 2, -1), (0, 0, 2, 0, 0), (0, 0, -1, 0, 0))
_BESIDE = ((0, 0, 0.5, 0, 0), (0, -1, 0, -1, 0), (-1, 4, 5, 4, -1), (0, -1, 0, -1, 0), (0, 0, 0.5, 0, 0))
_ACROSS = ((0, 0, -1.5, 0, 0), (0, 2, 0, 2, 0), (-1.5, 0, 6, 0, -1.5), (0, 2, 0, 2, 0), (0, 0, -1.5, 0, 0))

# A level at which the noise is told to the network, and what makes it comparable to the colours there.
_LEVEL, _NOISE_GAIN = 0.18, 8.0


def demosaic_linear(mosaics: Tensor, pattern: str) -> Tensor:
    """Demosaic by fixed 5x5 filters; a measured value stays as it is.

    Source: Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images",
    2004.

    Args:
        mosaics: ``(N, H, W)``, white-balanced, of any range.
        pattern: colours of the first 2x2 pixels, row by row, as ``"rggb"``.

    Returns:
        ``(N, 3, H, W)``.

    Example:
        >>> demosaic_linear(torch.full((2, 6, 8), 0.5), "rggb").mean()
        tensor(0.5000)
    """
    height, width = mosaics.shape[-2:]
    # Mirrored about the edge pixels, so that colours stay in step; a tiny picture repeats them instead.
    mode = "reflect" if min(height, width) > 2 else "replicate"
    kernels = torch.tensor([_GREEN, _BESIDE, tuple(zip(*_BESIDE, strict=True)), _ACROSS], dtype=mosaics.dtype) / 8.0
    padded = F.pad(mosaics[:, None], (2, 2, 2, 2), mode=mode)
    green, beside, above, across = F.conv2d(padded, kernels[:, None].to(mosaics.device)).unbind(1)
    red, at_green, blue = color_masks(pattern, height, width).to(mosaics)
    red_row = at_green * red.amax(dim=1, keepdim=True)
    blue_row = at_green - red_row
    if width < 2 or height < 2:  # a single row or column does not show which rows have red
        return mosaics[:, None].expand(-1, 3, -1, -1).clone()
    return torch.stack(
        [
            red * mosaics + red_row * beside + blue_row * above + blue * across,
            at_green * mosaics + (1.0 - at_green) * green,
            blue * mosaics + blue_row * beside + red_row * above + red * across,
        ],
        dim=1,
    )


def encode_mosaics(mosaics: Tensor, pattern: str, white_balance: Sequence[float], noise: tuple[float, float]) -> Tensor:
    """Make RAW frames into what ``msr.models.RawBurstModel`` takes.

    Nothing is clipped: noise below black and highlights above the saturation of green stay as they are.

    Args:
        mosaics: ``(N, H, W)`` float32, linear, 0 at black and 1 at saturation.
        pattern: colours of the first 2x2 pixels, row by row.
        white_balance: gains of red, green and blue.
        noise: (a, b): the variance of a value x is a x + b.

    Returns:
        ``(N, 7, H, W)``: white-balanced camera RGB under the curve of sRGB, the masks of the mosaic, the noise.

    Example:
        >>> encode_mosaics(torch.rand(2, 6, 8), "rggb", (2.0, 1.0, 1.5), (0.001, 0.0)).shape
        torch.Size([2, 7, 6, 8])
    """
    count, height, width = mosaics.shape
    masks = color_masks(pattern, height, width).to(mosaics)
    balanced = mosaics * (masks * per_channel(white_balance, mosaics)).sum(dim=0)
    rgb = srgb_curve(demosaic_linear(balanced, pattern))
    spread = _NOISE_GAIN * math.sqrt(noise[0] * _LEVEL + noise[1])
    level = torch.full_like(rgb[:, :1], spread)
    return torch.cat([rgb, masks.expand(count, -1, -1, -1), level], dim=1)


def find_motion(mosaics: Tensor, pattern: str, white_balance: tuple[float, float, float]) -> Tensor:
    """The motion from the first frame to each of the others, by the alignment that merging without training uses.

    Args:
        mosaics: as for `encode_mosaics`, the base frame first.
        pattern: colours of the first 2x2 pixels, row by row.
        white_balance: gains of red, green and blue.

    Returns:
        ``(N - 1, 2, H, W)`` in pixels.

    Example:
        >>> find_motion(torch.rand(3, 32, 48), "rggb", (2.0, 1.0, 1.5)).shape
        torch.Size([2, 2, 32, 48])
    """
    height, width = mosaics.shape[1:]
    grays = (gray_of(mosaic[None, None], pattern, white_balance) for mosaic in mosaics)
    aligner = Aligner(next(grays))
    found = [aligner.align(gray).dense(height, width)[0] for gray in grays]
    return torch.stack(found) if found else mosaics.new_zeros(0, 2, height, width)


def encode_camera_rgb(rgb: Tensor, white_balance: Sequence[float]) -> Tensor:
    """Linear camera RGB ``(.., 3, H, W)`` in the colours that the network works in.

    Example:
        >>> encode_camera_rgb(torch.ones(3, 1, 1), (1.0, 1.0, 1.0)).flatten()
        tensor([1., 1., 1.])
    """
    return srgb_curve(rgb * per_channel(white_balance, rgb))


def decode_camera_rgb(encoded: Tensor, white_balance: Sequence[float]) -> Tensor:
    """Linear camera RGB ``(.., 3, H, W)``, not white-balanced and clipped to [0, 1], of what the network gives.

    Example:
        >>> decode_camera_rgb(torch.ones(3, 1, 1), (2.0, 1.0, 1.0)).flatten()
        tensor([0.5000, 1.0000, 1.0000])
    """
    return (inverse_srgb_curve(encoded) / per_channel(white_balance, encoded)).clamp(0.0, 1.0)
