"""A frame of a burst as the merge sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from msr.camera import inverse_srgb_curve, srgb_curve


@dataclass(frozen=True)
class Shot:
    """One frame, with what its numbers mean.

    Attributes:
        pixels: ``(1, C, H, W)`` float32 in [0, 1]: C = 1 with a mosaic, linear camera values after black and white
            level (noise may go below 0); else C = 3, sRGB-encoded.
        mosaic: colours of the first 2x2 pixels ("rggb", "bggr", "grbg" or "gbrg"), or None.
        gains: white balance of red, green and blue; (1, 1, 1) for sRGB.
        noise: (a, b): the variance of a value x is a x + b; None: to be estimated.

    Example:
        >>> Shot(torch.zeros(1, 3, 4, 6)).size
        (4, 6)
    """

    pixels: Tensor
    mosaic: str | None = None
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    noise: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def brightened(self, factor: float) -> Shot:
        """The frame as if it had got ``factor`` times the light."""
        if self.mosaic is not None:
            return replace(self, pixels=self.pixels * factor)
        return replace(self, pixels=srgb_curve(inverse_srgb_curve(self.pixels) * factor))
