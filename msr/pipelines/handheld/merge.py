"""A burst merged without training: frame after frame added up on a finer grid, then sharpened."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.errors import InputError
from msr.ops.flow_warp import flow_warp
from msr.ops.kernel_merge import kernel_merge
from msr.pipelines.handheld.align import Aligner, Motion
from msr.pipelines.handheld.gray import middle, reduced_gray
from msr.pipelines.handheld.kernels import covariances
from msr.pipelines.handheld.noise import GuideNoise, estimate_noise, noise_at_most, noise_between, white_noise
from msr.pipelines.handheld.parts import in_parts, rows_at_once
from msr.pipelines.handheld.restore import Sums, luma_of, restore
from msr.pipelines.handheld.robustness import Judge, guide_of
from msr.pipelines.handheld.shot import Shot
from msr.pipelines.handheld.single import single_part, single_picture

#: Standard deviations of the merging kernels, in pixels of the frames: where there is texture, and where there is none.
DETAIL, FLAT, STRETCH = 0.28, 0.8, 2.0
#: A frame of which less than this is to be trusted shows something else.
_FOREIGN = 0.2
#: Frames with fewer pixels a side are too small to be aligned.
_LEAST = 16
_PREVIEW = 400

Source = Shot | Callable[[], Shot]


@dataclass(frozen=True)
class FrameUse:
    """What became of one frame.

    Attributes:
        index: its place in the burst.
        motion: from the base to it; None for the base itself and for a frame equal to it.
        trust: ``(1, 1, H/2, W/2)`` from 0 to 1, how far it was trusted; None likewise.
        exposure: how many times the base's light it got.
        used: whether it counted at all.
        preview: ``(1, 3, h, w)``, the frame in small, in its space.
    """

    index: int
    motion: Motion | None
    trust: Tensor | None
    exposure: float
    used: bool
    preview: Tensor


@dataclass(frozen=True)
class Merged:
    """The result.

    Attributes:
        image: ``(1, 3, ceil(scale H), ceil(scale W))`` in the space of the frames; of a mosaic, camera RGB that is not
            white-balanced.
        weight: ``(1, 1, ..)`` of the same size: how much of the frames counts there beside the base, in pixels.
        base: index of the base frame.
        frames: what became of each frame, in the order in which they were merged.
    """

    image: Tensor
    weight: Tensor
    base: int
    frames: tuple[FrameUse, ...]


def merge_shots(
    shots: Sequence[Source],
    scale: float,
    *,
    base: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Merged:
    """Merge the frames of a burst to one picture of what the base frame shows.

    Source: B. Wronski et al., "Handheld Multi-Frame Super-Resolution", 2019, arXiv:1905.03277: frames are aligned,
    doubted where they differ from the base, and gathered by kernels that follow edges. Unlike there, the kernels are
    narrow and what they and the area of a pixel blur is undone afterwards (`restore`); where next to nothing but the
    base counts, the result is the base alone, demosaicked and enlarged by cubic convolution.

    Args:
        shots: frames of one size and mosaic, or functions that load one: each is asked for once, the base first, so
            that memory does not grow with their number.
        scale: enlargement, a number from 1 to 4.
        base: index of the frame that the result looks like.
        advance: called after each frame.

    Returns:
        The picture, its weights and what became of the frames, on the device of the frames.

    Raises:
        InputError: no frames, or frames that differ in size or mosaic.
        ValueError: a scale out of range.

    Example:
        >>> merged = merge_shots([Shot(torch.rand(1, 3, 32, 40))] * 2, 1.5)
        >>> merged.image.shape, merged.frames[1].used
        (torch.Size([1, 3, 48, 60]), False)
    """
    if not shots:
        raise InputError("no frames: a burst needs at least one")
    if not 1 <= scale <= 4:
        raise ValueError(f"scale must be from 1 to 4, got {scale}")
    if not 0 <= base < len(shots):
        raise InputError(f"the base is frame {base}, but there are {len(shots)}")
    with torch.inference_mode():
        first = _load(shots[base])
        merger = _Merger(first, float(scale))
        advance()
        uses = [FrameUse(base, None, None, 1.0, True, _preview(first))]
        for index in range(len(shots)):
            if index != base:
                uses.append(merger.add(index, _load(shots[index])))
                advance()
        image, weight = merger.result()
    return Merged(image, weight, base, tuple(uses))


def _load(source: Source) -> Shot:
    return source if isinstance(source, Shot) else source()


def _preview(shot: Shot) -> Tensor:
    return _reduced(guide_of(shot.pixels, shot.mosaic))


def _reduced(small: Tensor) -> Tensor:
    reduction = -(-max(small.shape[2:]) // _PREVIEW)
    return F.avg_pool2d(small, reduction, ceil_mode=True)


class _Merger:
    """The sums, and what is known of the base."""

    def __init__(self, shot: Shot, scale: float) -> None:
        self.scale, self.alone = scale, True
        self.shot = shot
        if min(shot.size) >= _LEAST:
            self._prepare(shot)

    def _prepare(self, shot: Shot) -> None:
        self.gray = reduced_gray(shot.pixels, shot.mosaic, shot.gains, 1)
        self.aligner = Aligner(self.gray)
        self.brightness = middle(self.gray)
        self.guide = guide_of(shot.pixels, shot.mosaic)
        # What a camera makes of noise on its way to sRGB only another frame tells.
        self.sure = shot.mosaic is not None or shot.noise is not None
        if self.sure:
            noise = estimate_noise(shot.pixels, shot.mosaic) if shot.noise is None else shot.noise
            self.shot = replace(shot, noise=noise)
            self._believe(white_noise(self.guide, noise, shot.mosaic))
        else:
            self._believe(noise_at_most(self.guide))

    def _believe(self, noise: GuideNoise) -> None:
        self.noise = noise
        self.judge = Judge(self.guide, noise, mosaic=self.shot.mosaic is not None)

    def _begin(self) -> None:
        """There is a frame to be merged with the base, and the noise is known."""
        self.sure = True
        self.covariance = covariances(self.gray, _gray_noise(self.gray, self.shot, self.noise), DETAIL, FLAT, STRETCH)
        size = [math.ceil(side * self.scale) for side in self.shot.size]
        self.total, self.weight = (self.gray.new_empty(1, 3, *size) for _ in range(2))

    def _gather(self, pixels: Tensor, motion: Motion, trust: Tensor) -> None:
        """Add a frame to the sums, or begin them with it."""
        height, width = self.shot.size
        whole = self.scale == int(self.scale)

        def work(top: int, bottom: int) -> None:
            # One row more, as what is given for the base's pixels is read between them.
            first, last = max(top - 1, 0), min(bottom + 1, height)
            image, weight = kernel_merge(
                pixels[:, None],
                self._positions(motion, first, last)[:, None],
                self.covariance[:, None, :, first:last],
                _doubled(trust, first, last, width)[:, None],
                self.scale,
                mosaic=self.shot.mosaic,
            )
            rows = slice(None)
            if whole:
                scale = int(self.scale)
                rows = slice(top * scale, bottom * scale)
                part = slice((top - first) * scale, (bottom - first) * scale)
                image, weight = image[:, :, part], weight[:, :, part]
            if self.alone:
                torch.mul(image, weight, out=self.total[:, :, rows])
                self.weight[:, :, rows] = weight
            else:
                self.total[:, :, rows].addcmul_(image, weight)
                self.weight[:, :, rows].add_(weight)

        in_parts(height, rows_at_once(width) if whole else height, pixels.device, work)
        self.alone = False

    def _positions(self, motion: Motion, top: int, bottom: int) -> Tensor:
        """Where some rows of the base lie in a frame, ``(1, 2, bottom - top, W)``."""
        width, device = self.shot.size[1], self.gray.device
        place = motion.dense(bottom - top, width, top)
        place[:, 0] += torch.arange(width, device=device)
        place[:, 1] += torch.arange(top, bottom, device=device)[:, None]
        return place

    def add(self, index: int, shot: Shot) -> FrameUse:
        """Add a frame to the sums as far as it is to be trusted."""
        if (shot.size, shot.mosaic) != (self.shot.size, self.shot.mosaic):
            now, first = ("x".join(map(str, s.size[::-1])) for s in (shot, self.shot))
            kinds = f"mosaic {shot.mosaic}, expected {self.shot.mosaic}"
            raise InputError(f"frame {index} is {now}, expected {first}" if now != first else f"frame {index}: {kinds}")
        guide = guide_of(shot.pixels, shot.mosaic)
        preview = _reduced(guide)
        if min(shot.size) < _LEAST or _equal(shot.pixels, self.shot.pixels):
            return FrameUse(index, None, None, 1.0, False, preview)
        gray = reduced_gray(shot.pixels, shot.mosaic, shot.gains, self.aligner.factor)
        ratio = self.brightness / max(middle(gray), 1e-3)
        motion = self.aligner.align(gray * ratio if abs(ratio - 1.0) > 0.1 else gray)
        half = motion.halved()
        exposure = self.judge.exposure(guide, half, linear=shot.mosaic is not None)
        saturated = guide.amax(1, keepdim=True) > 0.97 if exposure > 1.05 else None
        if abs(exposure - 1.0) > 0.01:
            shot = shot.brightened(1.0 / exposure)
            guide = guide_of(shot.pixels, shot.mosaic)
        if not self.sure:
            flow = half.dense(*guide.shape[2:])
            warped = flow_warp(guide, flow, interpolation="bicubic", padding_mode="border")
            self._believe(self.noise.least(noise_between(self.guide, warped)))
        trust = self.judge.trust(guide, half)
        if saturated is not None:
            trust = trust * self.judge.clear(saturated, half)
        used = float(trust.mean()) >= _FOREIGN
        if used:
            if self.alone:
                self._begin()
            # What got less light has more noise.
            self._gather(shot.pixels, motion, trust * min(1.0, exposure))
        return FrameUse(index, motion, trust, exposure, used, preview)

    def result(self) -> tuple[Tensor, Tensor]:
        if self.alone:
            single = single_picture(self.shot, self.scale)
            return single, torch.zeros_like(single[:, :1])
        weight = torch.empty_like(self.weight[:, :1])
        height, width = weight.shape[2:]

        def work(top: int, bottom: int) -> None:
            weight[:, :, top:bottom] = luma_of(self.weight[:, :, top:bottom])

        in_parts(height, rows_at_once(3 * width), weight.device, work)
        sums = Sums(self.total, self.weight)
        return restore(sums, self._base(), self._single(), self.shot.gains, self.scale, DETAIL), weight

    def _base(self) -> Callable[[slice, slice], tuple[Tensor, Tensor]]:
        """Parts of what the base's pixels add up to; of a broken scale, it is made as a whole."""
        if self.scale == int(self.scale):
            return self._base_part
        height, width = self.shot.size
        image, weight = self._gathered_base(slice(0, height), slice(0, width))
        return lambda rows, columns: (image[..., rows, columns], weight[..., rows, columns])

    def _base_part(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        # What the kernels reach, from an even pixel on, where the colours of the mosaic begin as at the first.
        scale = int(self.scale)
        top, left = (max(side.start // scale - 2, 0) // 2 * 2 for side in (rows, columns))
        bottom, right = (
            min(-(-side.stop // scale) + 2, n) for side, n in zip((rows, columns), self.shot.size, strict=True)
        )
        y, x = top * scale, left * scale
        image, weight = (
            part[:, :, rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
            for part in self._gathered_base(slice(top, bottom), slice(left, right))
        )
        return image, weight

    def _gathered_base(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The mean and the weight of some of the base's pixels, each of which lies where it is."""
        place = torch.arange(columns.stop - columns.start), torch.arange(rows.stop - rows.start)
        x, y = torch.meshgrid(*place, indexing="xy")
        return kernel_merge(
            self.shot.pixels[:, None, :, rows, columns],
            torch.stack([x, y]).to(self.gray)[None, None],
            self.covariance[:, None, :, rows, columns],
            torch.ones_like(x, dtype=self.gray.dtype, device=self.gray.device)[None, None, None],
            self.scale,
            mosaic=self.shot.mosaic,
        )

    def _single(self) -> Callable[[slice, slice], Tensor]:
        """Parts of the picture that the base alone gives; of a broken scale, it is made as a whole."""
        if self.scale == int(self.scale):
            return lambda rows, columns: single_part(self.shot, int(self.scale), rows, columns)
        single = single_picture(self.shot, self.scale)
        return lambda rows, columns: single[..., rows, columns]


def _equal(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first[..., ::64, :], second[..., ::64, :]) and torch.equal(first, second)


def _doubled(trust: Tensor, top: int, bottom: int, width: int) -> Tensor:
    """Some rows of a picture enlarged to twice its size, or a pixel more, by linear interpolation."""
    height = trust.shape[2]
    first, last = min(max(top // 2 - 1, 0), height - 1), min((bottom + 1) // 2 + 1, height)
    large = F.interpolate(trust[:, :, first:last], scale_factor=2.0, mode="bilinear", align_corners=False)
    large = F.pad(large, (0, max(width - large.shape[3], 0), 0, 1), mode="replicate")
    return large[:, :, top - 2 * first : bottom - 2 * first, :width]


def _gray_noise(gray: Tensor, shot: Shot, noise: GuideNoise) -> float:
    """Standard deviation of the noise in a picture by `gray_of`."""
    if shot.mosaic is None:
        # Each pixel of the guide is the mean of four; in gray, green counts half, red and blue a quarter.
        share = torch.tensor([1 / 16, 1 / 4, 1 / 16], device=gray.device).view(1, 3, 1, 1)
        return float((4 * share * noise.pixel.mean((2, 3), keepdim=True)).sum().sqrt())
    assert shot.noise is not None
    a, b = shot.noise
    # The squares of the smoothing taps sum to 9/64, gains amplify; the derivative of a root is one half over the root.
    gain = sum(shot.gains) / 3
    light = float(gray.square().median())
    return (9 / 64 * gain * (a * light + b * gain)) ** 0.5 / (2.0 * max(light, 1e-3) ** 0.5)
