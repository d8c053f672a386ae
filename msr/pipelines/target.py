"""How large the result is to be: a factor, a size, or a box to fit into."""

from __future__ import annotations

import dataclasses
import math
import re
from fractions import Fraction

from torch import Tensor

from msr.errors import InputError
from msr.ops.resize import Phase, resize

#: The longest side that is made, in pixels.
_LONGEST = 65_535


@dataclasses.dataclass(frozen=True)
class Target:
    """What was asked for; at most one of the three, and none for the model's own scale.

    Args:
        scale: a factor above 0, not necessarily whole.
        size: exactly this ``(width, height)``.
        fit: the largest ``(width, height)`` of the source's shape in this box.

    Raises:
        InputError: several of them, or numbers that make no picture.

    Example:
        >>> Target(fit=(1920, 1080)).size_of(640, 480)
        (1440, 1080)
    """

    scale: float | None = None
    size: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.scale, self.size, self.fit)) > 1:
            raise InputError("only one of scale, size and fit can be asked for")
        scale = self.scale
        if scale is not None and (isinstance(scale, bool) or not math.isfinite(scale) or scale <= 0):
            raise InputError(f"scale must be a number above 0, got {scale!r}")
        for name, box in (("size", self.size), ("fit", self.fit)):
            if box is not None and not (len(box) == 2 and all(1 <= side <= _LONGEST for side in box)):
                raise InputError(f"{name} must be a width and a height from 1 to {_LONGEST}, got {box!r}")

    def size_of(self, width: int, height: int) -> tuple[int, int] | None:
        """Width and height of the result for a source of this size; None: what the model gives.

        Sides that need rounding become even, as most codecs want them.

        Raises:
            InputError: the result would have no pixels, or too many in a row.
        """
        if self.size is not None:
            return self.size
        if self.scale is not None:
            factor: float = self.scale
        elif self.fit is not None:
            factor = min(self.fit[0] / width, self.fit[1] / height)
        else:
            return None
        result = _side(width, factor), _side(height, factor)
        if self.fit is not None:  # rounding must not lead out of the box
            result = min(result[0], self.fit[0]), min(result[1], self.fit[1])
        if max(result) > _LONGEST:
            raise InputError(f"{factor:g} times {width}x{height} is more than {_LONGEST} pixels a side")
        return result

    def factor_of(self, width: int, height: int) -> float | None:
        """How many times a source of this size is enlarged, along the axis that grows most; None: as the model does."""
        size = self.size_of(width, height)
        return None if size is None else max(size[0] / width, size[1] / height)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of words like ``3840x2160``.

    Raises:
        InputError: other words.

    Example:
        >>> parse_size("3840x2160")
        (3840, 2160)
    """
    match = re.fullmatch(r"(\d{1,6})[x:](\d{1,6})", text.strip())
    if match is None:
        raise InputError(f"a size is written as WIDTHxHEIGHT, for example 1920x1080, got {text!r}")
    return int(match[1]), int(match[2])


def parse_rate(text: str) -> Fraction:
    """Frames a second of words like ``25``, ``23.976`` or ``30000/1001``.

    Raises:
        InputError: other words, or a rate that no clip has.

    Example:
        >>> parse_rate("30000/1001")
        Fraction(30000, 1001)
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"a rate is a number of frames a second, or a fraction such as 30000/1001, got {text!r}"
        ) from None
    if not 0 < rate <= 1000:
        raise InputError(f"a rate must be above 0 and at most 1000 frames a second, got {text}")
    return rate


def bring_to(rgb: Tensor, size: tuple[int, int] | None, phase: Phase) -> Tensor:
    """Resize what a model gave to the size asked for, antialiased, at the model's phase.

    Args:
        rgb: ``(1, 3, H, W)``.
        size: width and height, or None for those of ``rgb``.
        phase: of the model, so that the picture does not move.

    Returns:
        ``(1, 3, height, width)``.

    Example:
        >>> import torch
        >>> bring_to(torch.rand(1, 3, 40, 60), (30, 20), "centered").shape
        torch.Size([1, 3, 20, 30])
    """
    if size is None or tuple(rgb.shape[-2:]) == (size[1], size[0]):
        return rgb
    return resize(rgb, size=(size[1], size[0]), phase=phase)


def _side(side: int, factor: float) -> int:
    exact = side * factor
    if abs(exact - round(exact)) < 1e-6 and (float(factor).is_integer() or round(exact) % 2 == 0):
        return max(1, round(exact))
    return max(2, 2 * round(exact / 2))
