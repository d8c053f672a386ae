"""Which frame of a burst the result should look like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.filters import means
from msr.pipelines.handheld.gray import reduced_gray
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
    noise adds to it, in all frames alike.

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
        gray = reduced_gray(shot.pixels, shot.mosaic, shot.gains, 1)
        level = float(gray.mean())
        scores.append(_steps(gray) / (level * level + 1e-6))
        # The gray of a mosaic is a square root.
        levels.append(level * level if shot.mosaic else level)
        thumbnails.append(_thumbnail(gray))
    middle = sorted(levels)[count // 2]
    alike = [middle / _EXPOSURE <= level <= middle * _EXPOSURE for level in levels]
    witnesses = range(0, count, -(-count // _WITNESSES))
    agreed = [sum(_same(thumbnails[w], one) for w in witnesses) for one in thumbnails]
    fit = [index for index in range(count) if alike[index] and 2 * agreed[index] >= max(agreed)]
    return max(fit or range(count), key=lambda index: scores[index])


def _steps(gray: Tensor) -> float:
    """The mean square of differences between neighbours, across and down."""
    height, width = gray.shape[2:]
    across, down = [], []

    def work(top: int, bottom: int) -> None:
        part = gray[0, 0, top : min(bottom + 1, height)]
        across.append(float((part[: bottom - top, 1:] - part[: bottom - top, :-1]).square_().sum()))
        down.append(float((part[1:] - part[:-1]).square_().sum()))

    in_parts(height, rows_at_once(width), gray.device, work)
    return sum(across) / max(height * (width - 1), 1) + sum(down) / max((height - 1) * width, 1)


def _thumbnail(gray: Tensor) -> Tensor:
    reduction = max(1, min(gray.shape[2:]) // _THUMBNAIL)
    small = means(gray, reduction)
    return (small - small.mean()) / (small.std(correction=0) + 1e-6)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    height, width = first.shape[2:]
    x, y = (int(v) for v in global_shift(first, second))
    ours = first[..., max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    theirs = second[..., max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return bool(F.cosine_similarity((ours - ours.mean()).flatten(), (theirs - theirs.mean()).flatten(), dim=0) > _SAME)
