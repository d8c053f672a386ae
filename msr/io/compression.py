"""What video compression does to frames: encoded and decoded in memory."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

from msr.io.encoders import x264_params

_FORMAT = "yuv420p"


def through_h264(frames: np.ndarray, crf: int, preset: str = "medium") -> np.ndarray:
    """Frames as they come back from x264: ``(T, H, W, 3)`` uint8 RGB to the same, in 4:2:0 on the way.

    Args:
        frames: of any size; an odd one is encoded with its last row or column twice.
        crf: constant rate factor, 0 (lossless but for 4:2:0) to 51 (worst).
        preset: how thoroughly x264 searches.

    Returns:
        As many frames of the same size; the same frames give the same result.

    Example:
        >>> through_h264(np.full((3, 16, 21, 3), 128, np.uint8), 23).shape
        (3, 16, 21, 3)
    """
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *even.shape[1:3], _FORMAT
    encoder.framerate, encoder.thread_count = Fraction(25), 1
    encoder.options = {"crf": str(crf), "preset": preset, "x264-params": ":".join(x264_params())}
    packets = []
    for index, picture in enumerate(even):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=_FORMAT)
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.stack([frame.to_ndarray(format="rgb24")[:height, :width] for frame in decoded])
