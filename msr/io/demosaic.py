"""LibRaw's demosaicking of a mosaic in memory: the single frame that merged bursts are compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import rawpy

from msr.io.dng import write_dng
from msr.io.raw_frame import RawFrame, open_raw


def demosaic_ahd(frame: RawFrame) -> np.ndarray:
    """Demosaic by LibRaw's default, AHD, in white-balanced camera RGB.

    Source: Hirakawa and Parks, "Adaptive homogeneity-directed demosaicing algorithm", 2005, as LibRaw has it.

    Args:
        frame: of at least 32x32 pixels; smaller ones LibRaw does not take.

    Returns:
        ``(H, W, 3)`` float32, linear camera RGB in [0, 1], not white-balanced, not turned upright.

    Raises:
        InputError: LibRaw refuses the frame.

    Example:
        >>> mosaic = np.full((64, 64), 600, np.uint16)
        >>> frame = RawFrame(mosaic, "rggb", (200, 200, 200, 200), 1000, (2.0, 1.0, 1.5), np.eye(3, dtype=np.float32))
        >>> demosaic_ahd(frame).mean().round(2)
        np.float32(0.5)
    """
    red, green, blue = frame.white_balance
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dng"
        write_dng(path, frame)
        with open_raw(path) as raw:
            balanced = raw.postprocess(
                demosaic_algorithm=rawpy.DemosaicAlgorithm.AHD,
                user_wb=[red, green, blue, green],
                output_color=rawpy.ColorSpace.raw,
                gamma=(1, 1),
                no_auto_bright=True,
                adjust_maximum_thr=0.0,
                output_bps=16,
                user_flip=0,
            )
    gains = np.array(frame.white_balance, np.float32) / min(frame.white_balance)
    return balanced.astype(np.float32) / 65535.0 / gains
