"""Bursts simulated from a photo, written as files, the truth beside them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from msr import io
from msr.burst_simulation import Shake, SimulatedBurst, Trouble, simulate_jpeg_burst, simulate_raw_burst
from msr.camera import develop, random_sensor
from msr.errors import InputError
from msr.pipelines.burst_protocol import raw_frames
from msr.pipelines.evaluate import read_rgb


def simulate_burst_files(
    photo: Path,
    folder: Path,
    *,
    count: int = 15,
    scale: int = 2,
    jpeg: bool = False,
    noise: tuple[float, ...] | None = None,
    shift: float = 4.0,
    moving: bool = False,
    seed: int = 0,
) -> list[Path]:
    """Make a burst of a photo: frames as DNG (or JPEG) in ``folder/frames``, what they should merge to as a PNG.

    Source: the inverse camera pipeline of Brooks et al. 2019 (``msr.burst_simulation``).

    Args:
        photo: the original.
        folder: is made anew; it must not exist yet.
        count: frames.
        scale: how much smaller frames are than the original.
        jpeg: write JPEG (sRGB) instead of DNG.
        noise: DNG: (a, b) of the variance a x + b of a value x; JPEG: its standard deviation alone; range 1. None: at
            random for DNG, 0.01 for JPEG.
        shift: largest shift of a frame along each axis, in its pixels; turns go up to a degree.
        moving: let a piece of the photo move through the scene.
        seed: decides what is random.

    Returns:
        The frames, the base frame first, then the truth.

    Raises:
        InputError: the photo cannot be read or is too small, the folder exists or cannot be made, or a number is out
            of range.
        WorkError: a file cannot be written.

    Example:
        >>> simulate_burst_files(Path("photo.png"), Path("burst"), count=8, jpeg=True)    # doctest: +SKIP
        [PosixPath('burst/frames/00.jpg'), .., PosixPath('burst/truth.png')]
    """
    _check(count, scale, jpeg, noise, shift, seed)
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder")
    io.check_output(folder)
    original = read_rgb(photo)
    if min(original.shape[:2]) < 2 * scale:
        raise InputError(f"{photo} has fewer than {2 * scale} pixels a side, too few for a reduction by {scale}")
    rng = np.random.default_rng(seed)
    # What moves is the photo upside down, so that one photo is enough.
    trouble = Trouble(other=np.ascontiguousarray(original[::-1, ::-1]), moving=True) if moving else Trouble()
    shake = Shake(shift=shift)
    if jpeg:
        deviation = 0.01 if noise is None else noise[0]
        burst = simulate_jpeg_burst(
            original, count, scale, rng, shake=shake, noise=deviation, quality=None, trouble=trouble
        )
    else:
        sensor = random_sensor(rng, None if noise is None else (noise[0], noise[1]))
        burst = simulate_raw_burst(original, count, scale, rng, shake=shake, sensor=sensor, trouble=trouble)
    with io.whole(folder) as part:
        (part / "frames").mkdir(parents=True)
        names = _write_frames(part / "frames", burst)
        io.write_image(part / "truth.png", _picture(burst))
    return [*(folder / "frames" / name for name in names), folder / "truth.png"]


def _check(count: int, scale: int, jpeg: bool, noise: tuple[float, ...] | None, shift: float, seed: int) -> None:
    if not 1 <= count <= 1000:
        raise InputError(f"a burst has from 1 to 1000 frames, got {count}")
    if not 1 <= scale <= 8:
        raise InputError(f"the scale must be a whole number from 1 to 8, got {scale}")
    if noise is not None:
        wanted = "one number, its standard deviation" if jpeg else "two numbers, a and b of a x + b"
        if len(noise) != (1 if jpeg else 2) or not all(0.0 <= value <= 1.0 for value in noise):
            raise InputError(f"the noise must be {wanted}, from 0 to 1, got {' '.join(map(str, noise))}")
    if not (math.isfinite(shift) and 0.0 <= shift <= 1000.0):
        raise InputError(f"the shift must be from 0 to 1000 pixels, got {shift}")
    if seed < 0:
        raise InputError(f"the seed must not be negative, got {seed}")


def _write_frames(folder: Path, burst: SimulatedBurst) -> list[str]:
    digits = max(2, len(str(len(burst.frames) - 1)))
    suffix = ".jpg" if burst.sensor is None else ".dng"
    names = [f"{index:0{digits}}{suffix}" for index in range(len(burst.frames))]
    if burst.sensor is None:
        for name, frame in zip(names, burst.frames, strict=True):
            io.write_image(folder / name, frame)
    else:
        for name, raw in zip(names, raw_frames(burst), strict=True):
            io.write_dng(folder / name, raw)
    return names


def _picture(burst: SimulatedBurst) -> np.ndarray:
    """The truth as it would be shown: 16 bits, sRGB."""
    truth: Tensor = burst.truth
    if burst.sensor is not None:
        truth = develop(truth, burst.sensor.white_balance, burst.sensor.to_srgb)
    return np.ascontiguousarray((truth * 65535.0).round().permute(1, 2, 0).numpy().astype(np.uint16))
