"""Which frame of a burst the result should look like."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.filters import means
from msr.pipelines.handheld.gray import gray_of
from msr.pipelines.handheld.motion import global_shift
from msr.pipelines.handheld.parts import in_parts, rows_at_once
from msr.pipelines.handheld.shot import Shot

_THUMBNAIL = 64
#: Frames that a frame is compared with.
_WITNESSES = 12
#: Correlation of two thumbnails from which on they show the same; how much brighter or darker a frame may be.
_SAME, _EXPOSURE = 0.6, 1.25


def sharpest(count: int, load: Callable[[int], Shot]) -> int:
    """Choose the sharpest frame among those that show what most frames show, as bright as most do.

    Sharpness is the mean square of differences between neighbours in the gray picture, over the square of its level;
    noise adds to it, in all frames alike. Of large frames, every other band of rows is looked at.

    Args:
        count: of frames, 1 or more.
        load: gives one of them; each is asked for once.

    Returns:
        Its index.

    Example:
        >>> x = torch.rand(1, 3, 32, 32)
        >>> sharpest(2, lambda index: Shot(x if index else torch.nn.functional.avg_pool2d(x, 3, 1, 1)))
        1
    """
    if count == 1:
        return 0
    scores, levels, thumbnails = [], [], []
    for index in range(count):
        shot = load(index)
        level, steps = _look(shot)
        scores.append(steps / (level * level + 1e-6))
        # The gray of a mosaic is a square root.
        levels.append(level * level if shot.mosaic else level)
        thumbnails.append(_thumbnail(shot))
    middle = sorted(levels)[count // 2]
    alike = [middle / _EXPOSURE <= level <= middle * _EXPOSURE for level in levels]
    witnesses = range(0, count, -(-count // _WITNESSES))
    agreed = [sum(_same(thumbnails[w], one) for w in witnesses) for one in thumbnails]
    fit = [index for index in range(count) if alike[index] and 2 * agreed[index] >= max(agreed)]
    return max(fit or range(count), key=lambda index: scores[index])


def _look(shot: Shot) -> tuple[float, float]:
    """The mean of the gray picture, and the mean square of the differences between neighbours, across and down."""
    height, width = shot.size
    rows = rows_at_once(width)
    found = []

    def work(top: int, bottom: int) -> None:
        if top // rows % 2 == 0:
            gray = gray_of(shot.pixels[:, :, top:bottom], shot.mosaic, shot.gains)[0, 0]
            steps = gray[:, 1:] - gray[:, :-1], gray[1:] - gray[:-1]
            found.append([(float(x.sum()), x.numel()) for x in (gray, *(step.square_() for step in steps))])

    in_parts(height, rows, shot.pixels.device, work)
    # Exactly, for the threads are done in any order.
    level, across, down = (
        math.fsum(total for total, _ in parts) / max(sum(count for _, count in parts), 1)
        for parts in zip(*found, strict=True)
    )
    return level, across + down


def _thumbnail(shot: Shot) -> Tensor:
    reduction = max(1, min(shot.size) // _THUMBNAIL)
    if shot.mosaic and min(shot.size) > 2:
        reduction += reduction % 2  # as many pixels of each colour everywhere
    small = means(shot.pixels, reduction)
    small = small.clamp(min=0).sqrt() if shot.mosaic else gray_of(small, None, shot.gains)
    return (small - small.mean()) / (small.std(correction=0) + 1e-6)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    height, width = first.shape[2:]
    x, y = (int(v) for v in global_shift(first, second))
    ours = first[..., max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    theirs = second[..., max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return bool(F.cosine_similarity((ours - ours.mean()).flatten(), (theirs - theirs.mean()).flatten(), dim=0) > _SAME)
