"""The picture that one frame alone gives."""

from __future__ import annotations

from torch import Tensor

from msr.ops.resize import resize
from msr.pipelines.handheld.demosaic import demosaic
from msr.pipelines.handheld.shot import Shot

_BAND = 64
#: Rows beyond which cubic convolution does not reach.
_REACH = 4


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
    picture = shot.pixels if shot.mosaic is None else demosaic(shot.pixels, shot.mosaic, shot.gains)
    height, width = shot.size
    if scale != int(scale) or picture.device.type != "cpu":
        return resize(picture, scale=scale)
    # In bands that stay in the processor's cache.
    factor = int(scale)
    out = picture.new_empty(1, 3, height * factor, width * factor)
    for top in range(0, height, _BAND):
        bottom, first = min(top + _BAND, height), max(top - _REACH, 0)
        band = resize(picture[:, :, first : bottom + _REACH], scale=factor)
        out[:, :, top * factor : bottom * factor] = band[:, :, (top - first) * factor : (bottom - first) * factor]
    return out
