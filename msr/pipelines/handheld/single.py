"""The picture that one frame alone gives."""

from __future__ import annotations

from torch import Tensor

from msr.ops.resize import resize
from msr.pipelines.handheld.demosaic import demosaic
from msr.pipelines.handheld.parts import in_parts, rows_at_once
from msr.pipelines.handheld.shot import Shot

#: Pixels beyond which neither demosaicking nor cubic convolution reaches.
_REACH = 14


def single_picture(shot: Shot, scale: float) -> Tensor:
    """Enlarge a frame by cubic convolution, demosaicked where it is a mosaic.

    Args:
        shot: the frame.
        scale: enlargement.

    Returns:
        ``(1, 3, ceil(scale H), ceil(scale W))``.

    Example:
        >>> single_picture(Shot(torch.rand(1, 1, 6, 8), "rggb"), 2.0).shape
        torch.Size([1, 3, 12, 16])
    """
    height, width = shot.size
    if scale != int(scale):
        return resize(_colours(shot, shot.pixels), scale=scale)
    factor = int(scale)
    out = shot.pixels.new_empty(1, 3, height * factor, width * factor)

    def work(top: int, bottom: int) -> None:
        rows = slice(top * factor, bottom * factor)
        out[:, :, rows] = single_part(shot, factor, rows, slice(0, width * factor))

    in_parts(height, rows_at_once(width), shot.pixels.device, work)
    return out


def single_part(shot: Shot, factor: int, rows: slice, columns: slice) -> Tensor:
    """A part of that picture, for a whole number as scale.

    Example:
        >>> single_part(Shot(torch.rand(1, 1, 6, 8), "rggb"), 2, slice(0, 4), slice(5, 16)).shape
        torch.Size([1, 3, 4, 11])
    """
    # From an even pixel on, where the colours of the mosaic begin as at the first.
    top, left = (max(side.start // factor - _REACH, 0) // 2 * 2 for side in (rows, columns))
    bottom, right = (-(-side.stop // factor) + _REACH for side in (rows, columns))
    large = resize(_colours(shot, shot.pixels[:, :, top:bottom, left:right]), scale=factor)
    y, x = top * factor, left * factor
    return large[:, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def _colours(shot: Shot, pixels: Tensor) -> Tensor:
    return pixels if shot.mosaic is None else demosaic(pixels, shot.mosaic, shot.gains)
