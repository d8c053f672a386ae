"""Cuts from one scene to the next, found on small luma pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Pixels of a thumbnail (64 by 36 for a wide picture).
_AREA = 64 * 36

#: How far a block is looked for in the frame before, in pixels of the thumbnail: an eighth of a wide picture.
_REACH = 8

#: Side of the window in which patterns are compared, in pixels of the thumbnail.
_WINDOW = 9

#: Below this many code values (of 1) a pattern is noise.
_NOISE = 0.004

#: Change from which a frame can start a scene. Over 31 real clips the change between neighbouring frames is at most
#: 0.64 (in clips whose usual change is 0.45), that between frames of two clips 0.64 or more in 995 of 1000 pairs.
_LIKELY = 0.6

#: Change without any motion search up to which the search is not made: no cut can come of it.
_CALM = 0.35

#: Share of what is usual that stays from frame to frame when the clip calms down.
_KEPT = 0.8

#: A flash lasts at most so many frames; a scene to which the clip returns after so few was not left.
_FLASH = 2


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the detector remembers of the frames before: the last thumbnail, and how much neighbours usually differ."""

    thumbnail: Tensor
    usual: float


def thumbnail(luma: np.ndarray | Tensor, top: float = 1.0) -> Tensor:
    """The means of a picture over a coarse grid of about 64 by 36.

    Args:
        luma: ``(H, W)``, any size from 1x1; integers or floating point.
        top: the value of white.

    Returns:
        ``(h, w)`` float32 in [0, 1] on the CPU.

    Example:
        >>> thumbnail(np.zeros((360, 640), np.uint8), 255).shape
        torch.Size([36, 64])
    """
    values = luma.detach().cpu().float().numpy() if isinstance(luma, Tensor) else luma
    height, width = values.shape
    shrink = min(1.0, math.sqrt(_AREA / (height * width)))
    rows, columns = max(1, round(height * shrink)), max(1, round(width * shrink))
    top_rows, left_columns = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    # uint32 holds the sum of a row of 16-bit values and is added faster than floating point is.
    kind = np.uint32 if values.dtype.kind == "u" else np.float32
    sums = np.add.reduceat(
        np.add.reduceat(values, top_rows, axis=0, dtype=kind), left_columns, axis=1, dtype=np.float64
    )
    area = np.diff(np.append(top_rows, height))[:, None] * np.diff(np.append(left_columns, width))
    return torch.from_numpy((sums / (area * top)).astype(np.float32))


def change(before: Tensor, after: Tensor) -> float:
    """How little of a frame can be found in the frame before it: about 0 for the same scene, 1 for another.

    Each window of ``after`` is looked for in ``before`` at all shifts up to ``_REACH`` pixels, its mean left out so
    that light may change; what remains of its pattern is divided by the pattern.
    Source: the comparison of inter and intra cost by which video encoders place key frames, on local contrast.

    Args:
        before: thumbnail ``(h, w)``.
        after: the next frame's thumbnail, of the same size.

    Returns:
        0 or more; seldom over 1.2.

    Example:
        >>> change(torch.zeros(36, 64), torch.zeros(36, 64))
        0.0
    """
    a, b = _pattern(before), _pattern(after)
    strength = 0.5 * float(a.abs().mean() + b.abs().mean()) + _NOISE
    still = float((b - a).abs().mean()) / strength
    if still <= _CALM:
        return still
    height, width = a.shape
    padded = F.pad(a[None, None], (_REACH,) * 4, mode="replicate")[0, 0]
    side = range(2 * _REACH + 1)
    shifted = torch.stack([padded[y : y + height, x : x + width] for y in side for x in side])
    cost = _mean_of_windows((b - shifted).abs()[:, None])
    return float(cost.amin(0).mean()) / strength


def judge(scene: Scene | None, thumbnails: Sequence[Tensor], ended: bool) -> tuple[bool, Scene] | None:
    """Say whether a frame starts a scene.

    A frame does when it differs from the one before by more than any motion explains and by clearly more than
    neighbours usually differ, and when the clip does not return to the old scene within ``_FLASH`` frames, as it does
    after a flash.

    Args:
        scene: what this function gave for the frame before; None for the first frame of a clip.
        thumbnails: of the frame in question and of the frames after it as far as they are there.
        ended: whether the clip ends with them.

    Returns:
        The verdict and what to remember, or None: more frames are needed to tell a cut from a flash.

    Example:
        >>> judge(None, [torch.zeros(36, 64)], ended=False)[0]
        False
    """
    current = thumbnails[0]
    if scene is None:
        return False, Scene(current, 0.0)
    now = change(scene.thumbnail, current)
    if now <= max(_LIKELY, 1.35 * scene.usual + 0.1):
        return False, Scene(current, max(now, _KEPT * scene.usual + (1 - _KEPT) * now))
    for later in thumbnails[1 : 1 + _FLASH]:
        if change(scene.thumbnail, later) <= _LIKELY:
            return False, scene  # the frames of the flash are left out
    if len(thumbnails) <= _FLASH and not ended:
        return None
    # What moves too fast to be found looks like a cut at every frame: right after one, another must be clearer still.
    return True, Scene(current, now)


def _mean_of_windows(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)


def _pattern(picture: Tensor) -> Tensor:
    return picture - _mean_of_windows(picture[None, None])[0, 0]
