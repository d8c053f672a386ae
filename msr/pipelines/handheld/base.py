"""Which frame of a burst the result should look like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.gray import gray_of
from msr.pipelines.handheld.motion import global_shift
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
        gray = gray_of(shot.pixels, shot.mosaic, shot.gains)
        level = float(gray.mean())
        steps = [(gray[..., 1:] - gray[..., :-1]), (gray[..., 1:, :] - gray[..., :-1, :])]
        scores.append(sum(float(step.square().mean()) for step in steps if step.numel()) / (level * level + 1e-6))
        # The gray of a mosaic is a square root.
        levels.append(level * level if shot.mosaic else level)
        thumbnails.append(_thumbnail(gray))
    middle = sorted(levels)[count // 2]
    alike = [middle / _EXPOSURE <= level <= middle * _EXPOSURE for level in levels]
    witnesses = range(0, count, -(-count // _WITNESSES))
    agreed = [sum(_same(thumbnails[w], one) for w in witnesses) for one in thumbnails]
    fit = [index for index in range(count) if alike[index] and 2 * agreed[index] >= max(agreed)]
    return max(fit or range(count), key=lambda index: scores[index])


def _thumbnail(gray: Tensor) -> Tensor:
    reduction = max(1, min(gray.shape[2:]) // _THUMBNAIL)
    small = F.avg_pool2d(gray, reduction)
    return (small - small.mean()) / (small.std(correction=0) + 1e-6)


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    height, width = first.shape[2:]
    x, y = (int(v) for v in global_shift(first, second))
    ours = first[..., max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    theirs = second[..., max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
    return bool(F.cosine_similarity((ours - ours.mean()).flatten(), (theirs - theirs.mean()).flatten(), dim=0) > _SAME)
