"""RAW photos: DNG and the makers' formats through LibRaw (rawpy)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rawpy

from msr.io.raw_frame import missing_white_balance, open_raw

RAW_SUFFIXES = (".dng", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")


def is_raw(path: Path) -> bool:
    """Whether the suffix of a file names a RAW format."""
    return path.suffix.lower() in RAW_SUFFIXES


def read_raw(path: str | Path) -> np.ndarray:
    """Develop a RAW photo to sRGB with the camera's white balance, else that of daylight, 16 bits a sample.

    Brightness is not adjusted, so that the shots of a burst stay comparable. The curve is that of sRGB
    (IEC 61966-2-1); the camera's orientation is applied.

    Args:
        path: a DNG or another RAW file that LibRaw reads.

    Returns:
        ``(H, W, 3)`` uint16, sRGB.

    Raises:
        InputError: missing, empty, not RAW, damaged, or larger than ``msr.io.image.MAX_PIXELS``.

    Example:
        >>> read_raw("shot.dng").dtype    # doctest: +SKIP
        dtype('uint16')
    """
    path = Path(path)
    with open_raw(path) as raw:
        gains = missing_white_balance(raw)
        developed = raw.postprocess(
            use_camera_wb=gains is None,
            user_wb=gains,
            no_auto_bright=True,
            adjust_maximum_thr=0.0,  # else white would depend on the brightest pixel of each shot
            output_bps=16,
            output_color=rawpy.ColorSpace.sRGB,
            gamma=(2.4, 12.92),
        )
    return np.ascontiguousarray(developed)
