"""How far one picture, or clip, lies off another."""

from __future__ import annotations

import numpy as np

#: The grid on which shifts are found, pixels.
STEP = 0.1

# Of fewer frequencies, the shift of a result in place is now and then found anywhere.
_FEWEST = 256
# Of the squared difference without a shift: what is left with one that is beyond doubt.
_LEFT = 0.75


class GlobalShift:
    """How far pictures lie to the right of and below others: one answer for all pairs that were added.

    Phase correlation of windowed pictures, summed over the pairs, of the frequencies that survive a reduction by
    ``scale``, read off on a grid of a tenth of a pixel by a Fourier transform around the peak.

    Source: Kuglin and Hines, "The phase correlation image alignment method", 1975; Guizar-Sicairos et al., "Efficient
    subpixel image registration algorithms", 2008.

    Args:
        scale: frequencies above 0.5 / ``scale`` cycles a pixel are left out: those are a guess of whoever enlarged.

    Example:
        >>> picture, measure = np.random.default_rng(0).random((48, 64)), GlobalShift()
        >>> measure.add(np.roll(picture, 2, axis=1), picture)
        >>> measure.found
        (2.0, 0.0)
    """

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale
        self._total: np.ndarray | None = None
        self._energy: np.ndarray | None = None

    def add(self, result: np.ndarray, truth: np.ndarray) -> None:
        """Take one more pair, ``(H, W)`` of floating point, of the size of the others.

        Raises:
            ValueError: two sizes.
        """
        if result.shape != truth.shape or (self._total is not None and self._total.shape != truth.shape):
            raise ValueError(f"pictures must have one size, got {result.shape} and {truth.shape}")
        window = np.outer(*(np.hanning(n + 2)[1:-1] for n in truth.shape))
        a, b = (np.fft.fft2((x - np.average(x, weights=window)) * window) for x in (result, truth))
        self._total = a * np.conj(b) + (0.0 if self._total is None else self._total)
        self._energy = np.abs(a) ** 2 + np.abs(b) ** 2 + (0.0 if self._energy is None else self._energy)

    @property
    def found(self) -> tuple[float, float]:
        """x and y in pixels; 0 and 0 where there is no structure, or no picture."""
        if self._total is None:
            return 0.0, 0.0
        fy, fx = (np.fft.fftfreq(n) for n in self._total.shape)
        size = np.abs(self._total)
        known = (np.hypot(fy[:, None], fx[None]) <= 0.5 / self.scale) & (size > 1e-9 * max(float(size.max()), 1e-6))
        if not known.any():
            return 0.0, 0.0
        phase = np.where(known, self._total / np.where(known, size, 1.0), 0.0)
        peak = np.unravel_index(int(np.argmax(np.fft.ifft2(phase).real)), phase.shape)
        y, x = (int(p) - n * (p > n // 2) for p, n in zip(peak, phase.shape, strict=True))
        near = np.arange(-10, 11) * STEP
        rows, columns = (np.exp(2j * np.pi * np.outer(at + near, f)) for at, f in ((y, fy), (x, fx)))
        best = np.unravel_index(int(np.argmax((rows @ phase @ columns.T).real)), (near.size, near.size))
        return round(float(x + near[best[1]]), 1), round(float(y + near[best[0]]), 1)

    @property
    def certain(self) -> bool:
        """Whether pictures moved by what was found agree clearly better than where they are, by enough frequencies.

        Those of small pictures are too few, and where noise or what an enlargement made up outweighs the structure, any
        place is as good.

        Example:
            >>> picture, measure = np.random.default_rng(0).random((48, 64)), GlobalShift()
            >>> measure.add(np.roll(picture, 2, axis=1), picture)
            >>> measure.certain
            True
        """
        if self._total is None or self._energy is None:
            return False
        fy, fx = np.meshgrid(*(np.fft.fftfreq(n) for n in self._total.shape), indexing="ij")
        band = np.hypot(fy, fx) <= 0.5 / self.scale
        x, y = self.found
        moved, still = (
            float((self._energy - 2.0 * (self._total * np.exp(2j * np.pi * (fy * dy + fx * dx))).real)[band].sum())
            for dx, dy in ((x, y), (0.0, 0.0))
        )
        return int(band.sum()) >= _FEWEST and moved < _LEFT * still
