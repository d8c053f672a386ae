"""Small files that the tests make for themselves: clips, RAW photos, weights."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import tifffile

from msr.models import build_model, save_model

RATE = Fraction(30000, 1001)


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth random colours, ``(H, W, 3)`` uint8."""
    coarse = np.random.default_rng(seed).uniform(20, 235, (5, 6, 3))
    rows, columns = np.linspace(0, 3.999, height), np.linspace(0, 4.999, width)
    y, x = rows.astype(int), columns.astype(int)
    fy, fx = (rows - y)[:, None, None], (columns - x)[None, :, None]
    top = coarse[y][:, x] * (1 - fx) + coarse[y][:, x + 1] * fx
    bottom = coarse[y + 1][:, x] * (1 - fx) + coarse[y + 1][:, x + 1] * fx
    return np.rint(top * (1 - fy) + bottom * fy).astype(np.uint8)


def clip(
    path: Path, frames: int = 12, *, size: tuple[int, int] = (64, 48), codec: str = "libx264", audio: str = ""
) -> Path:
    """A clip of a picture that moves to the right by a pixel a frame; ``audio`` names a codec."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=RATE)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        sound = out.add_stream(audio, rate=48000) if audio else None
        image = picture(size[1], size[0])
        for index in range(frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.roll(image, index, 1), format="rgb24")))
            if sound is not None:
                wave = np.sin(np.arange(index * 1600, (index + 1) * 1600) * 0.06).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                samples.sample_rate, samples.pts = 48000, index * 1600
                out.mux(sound.encode(samples))
        out.mux(video.encode())
        if sound is not None:
            out.mux(sound.encode())
    return path


def dng(path: Path, rgb: tuple[float, float, float] = (0.5, 0.25, 0.125), orientation: int = 1) -> Path:
    """An uncompressed 48x32 RGGB photo of one linear sRGB colour, by a camera whose primaries are those of sRGB."""
    mosaic = np.empty((32, 48), np.uint16)
    for row, column, value in ((0, 0, rgb[0]), (0, 1, rgb[1]), (1, 0, rgb[1]), (1, 1, rgb[2])):
        mosaic[row::2, column::2] = round(512 + value * (16383 - 512))
    # XYZ (D65) to linear sRGB (IEC 61966-2-1), in units of 1/10000.
    matrix = [32405, -15372, -4985, -9693, 18760, 416, 556, -2040, 10572]
    tags = [
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),  # CFAPattern
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # DNGVersion
        (50708, "s", 0, "made for a test", True),  # UniqueCameraModel
        (50714, "H", 1, 512, True),  # BlackLevel
        (50717, "H", 1, 16383, True),  # WhiteLevel
        (50721, "2i", 9, [n for value in matrix for n in (value, 10000)], True),  # ColorMatrix1
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),  # AsShotNeutral
        (50778, "H", 1, 21, True),  # CalibrationIlluminant1: D65
    ]
    tifffile.imwrite(path, mosaic, photometric=32803, extratags=tags, metadata=None)
    return path


def weights(folder: Path, kind: str, **arguments: int | str) -> Path:
    """A tiny untrained model's weights file."""
    arguments = {"channels": 8, "blocks": 1, **arguments}
    path = folder / f"tiny-{kind}.safetensors"
    save_model(build_model(kind, arguments), kind, arguments, path)
    return path
