"""RAW photos: DNG and the makers' formats through LibRaw (rawpy)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rawpy

from msr.errors import InputError
from msr.io.image import MAX_PIXELS, check_file

RAW_SUFFIXES = (".dng", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")


def is_raw(path: Path) -> bool:
    """Whether the suffix of a file names a RAW format."""
    return path.suffix.lower() in RAW_SUFFIXES


def read_raw(path: str | Path) -> np.ndarray:
    """Develop a RAW photo to sRGB with the camera's white balance, 16 bits a sample.

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
    check_file(path)
    try:
        with rawpy.imread(str(path)) as raw:
            width, height = raw.sizes.width, raw.sizes.height
            if width < 1 or height < 1:
                raise InputError(f"{path} declares a size of {width}x{height} pixels")
            if width * height > MAX_PIXELS:
                raise InputError(f"{path} declares {width}x{height} pixels; at most {MAX_PIXELS:,} are read")
            developed = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                output_bps=16,
                output_color=rawpy.ColorSpace.sRGB,
                gamma=(2.4, 12.92),
            )
    except rawpy.LibRawError as error:
        said = error.args[0] if error.args else error
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise InputError(f"{path} is not a RAW photo that can be developed: {said}") from None
    return np.ascontiguousarray(developed)
