"""How RAW bursts are simulated from originals for measuring, and what is measured."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from msr.burst_simulation import Shake, SimulatedBurst, Trouble, simulate_raw_burst
from msr.camera import develop
from msr.degradation import to_tensor
from msr.io.demosaic import demosaic_ahd
from msr.io.raw_frame import RawFrame
from msr.metrics import psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.handheld import Shot, merge_shots
from msr.pipelines.raw_input import decode_camera_rgb, encode_camera_rgb, encode_mosaics, find_motion

# Output pixels left out at each border: frames shift by up to 4 pixels of their own.
CROP = 16


def protocol_burst(
    photo: np.ndarray, index: int, count: int, scale: int, trouble: Trouble | None = None
) -> SimulatedBurst:
    """The RAW burst of a protocol's photo: shifts of up to 4 pixels, turns of up to a degree, any camera and noise.

    Args:
        photo: ``(H, W, 3)`` uint8.
        index: of the photo; it is the seed.
        count: frames; a longer burst begins with the same ones.
        scale: reduction.
        trouble: what goes wrong; None: nothing.

    Example:
        >>> protocol_burst(np.zeros((64, 96, 3), np.uint8), 0, 2, 4).frames.shape
        (2, 16, 24)
    """
    return simulate_raw_burst(
        photo, count, scale, np.random.default_rng(index), shake=Shake(), trouble=trouble or Trouble()
    )


def raw_frames(burst: SimulatedBurst) -> list[RawFrame]:
    """The frames of a simulated RAW burst as a camera would have written them.

    Example:
        >>> raw_frames(protocol_burst(np.zeros((64, 96, 3), np.uint8), 0, 2, 4))[0].pattern
        'rggb'
    """
    sensor = burst.sensor
    assert sensor is not None
    black = (float(sensor.black),) * 4
    return [
        RawFrame(levels, sensor.pattern, black, float(sensor.white), sensor.white_balance, sensor.to_srgb, sensor.noise)
        for levels in burst.frames
    ]


def single_frame(burst: SimulatedBurst, scale: int) -> Tensor:
    """The best single-frame result: the base frame demosaicked by LibRaw, enlarged by cubic convolution.

    Returns:
        ``(3, sH, sW)`` linear camera RGB.

    Example:
        >>> single_frame(protocol_burst(np.zeros((256, 256, 3), np.uint8), 0, 1, 4), 4).shape
        torch.Size([3, 256, 256])
    """
    rgb = torch.from_numpy(demosaic_ahd(raw_frames(burst)[0])).permute(2, 0, 1)[None]
    return resize(rgb, scale=scale)[0].clamp(0.0, 1.0)


def shot_of(burst: SimulatedBurst, index: int) -> Shot:
    """One frame of a simulated burst as merging without training takes it.

    Example:
        >>> shot_of(protocol_burst(np.zeros((64, 96, 3), np.uint8), 0, 2, 4), 1).pixels.shape
        torch.Size([1, 1, 16, 24])
    """
    if burst.sensor is None:
        return Shot(to_tensor(burst.frames[index])[None], None, (1.0, 1.0, 1.0), None)
    sensor = burst.sensor
    pixels = torch.from_numpy(burst.mosaics[index])[None, None]
    return Shot(pixels, sensor.pattern, sensor.white_balance, sensor.noise)


def handheld(burst: SimulatedBurst, scale: float, count: int | None = None) -> Tensor:
    """What merging without training makes of the first ``count`` frames (None: of all).

    Returns:
        ``(3, sH, sW)`` in the space of the burst: linear camera RGB, or sRGB.

    Example:
        >>> handheld(protocol_burst(np.zeros((128, 128, 3), np.uint8), 0, 2, 4), 4).shape
        torch.Size([3, 128, 128])
    """
    loaders = [partial(shot_of, burst, index) for index in range(len(burst.frames))[:count]]
    return merge_shots(loaders, scale).image[0].clamp(0.0, 1.0)


def learned(burst: SimulatedBurst, model: torch.nn.Module, count: int | None = None) -> Tensor:
    """What a network of kind ``burst-raw`` makes of the first ``count`` frames (None: of all).

    Returns:
        ``(3, sH, sW)`` linear camera RGB.

    Example:
        >>> from msr.models import RawBurstModel
        >>> burst = protocol_burst(np.zeros((128, 128, 3), np.uint8), 0, 2, 4)
        >>> learned(burst, RawBurstModel(channels=8, blocks=1)).shape
        torch.Size([3, 128, 128])
    """
    sensor = burst.sensor
    assert sensor is not None
    mosaics = torch.from_numpy(burst.mosaics[:count])
    device = next(model.parameters()).device
    with torch.inference_mode():
        frames = encode_mosaics(mosaics, sensor.pattern, sensor.white_balance, sensor.noise)
        flows = find_motion(mosaics, sensor.pattern, sensor.white_balance)
        merged = encode_camera_rgb(handheld(burst, float(model.scale), count), sensor.white_balance)  # type: ignore[arg-type]
        result = model(*(x[None].to(device) for x in (frames, flows, merged)))[0].float().cpu()
    return decode_camera_rgb(result, sensor.white_balance)


def raw_figures(result: Tensor, burst: SimulatedBurst, crop: int = CROP) -> tuple[float, float]:
    """PSNR in decibels against the truth, RGB: developed to 8-bit sRGB, and in linear camera RGB.

    Args:
        result: ``(3, sH, sW)`` linear camera RGB.
        burst: whose truth it is measured against.
        crop: output pixels left out at each border.

    Example:
        >>> burst = protocol_burst(np.full((64, 96, 3), 99, np.uint8), 0, 1, 4)
        >>> raw_figures(burst.truth + 0.01, burst)[1].__round__(1)
        40.0
    """
    sensor = burst.sensor
    assert sensor is not None
    shown, wanted = (quantize(develop(x, sensor.white_balance, sensor.to_srgb)) for x in (result, burst.truth))
    return psnr(shown, wanted, crop=crop), psnr(result, burst.truth, crop=crop)
