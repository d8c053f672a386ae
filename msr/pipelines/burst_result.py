"""A merged burst on its way to a file: developed where it is RAW, with what belongs to the base frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msr import io
from msr.camera import develop
from msr.errors import InputError
from msr.ops.resize import Phase
from msr.pipelines.choose import MAX_OUTPUT_PIXELS
from msr.pipelines.pixels import describe, pack, unpack

#: What these hold of the bits that merging gains.
_DEEP = (".png", ".tif", ".tiff")


def check_result(target: Path, size: tuple[int, int], scale: float, raw: bool) -> tuple[int, int]:
    """Refuse a name or a size that a result cannot have, before any work is done for it.

    Args:
        target: the file to be written.
        size: width and height of the frames, upright.
        scale: enlargement.
        raw: whether the result is linear camera RGB.

    Returns:
        Width and height of the result.

    Raises:
        InputError: the format cannot hold it, it is too large, or a DNG is asked for where there is no RAW result.

    Example:
        >>> check_result(Path("a.png"), (40, 30), 1.5, False)
        (60, 45)
    """
    width, height = (math.ceil(side * scale - 1e-9) for side in size)
    if width * height > MAX_OUTPUT_PIXELS:
        raise InputError(f"{target} would become {width}x{height} pixels; at most {MAX_OUTPUT_PIXELS:,} are made")
    if target.suffix.lower() != ".dng":
        io.check_format(target, (height, width))
    elif not raw:
        raise InputError(f"cannot write {target}: DNG is for RAW frames that are merged before they are developed")
    return width, height


def check_alpha(target: Path, frame: io.Picture | io.RawFrame) -> None:
    """Refuse a name whose format holds no transparency if the frames have it, before they are merged."""
    if isinstance(frame, io.Picture):
        io.check_format(target, (1, 1, *frame.pixels.shape[2:]))


def save_picture(
    target: Path,
    rgb: Tensor,
    base: io.Picture,
    name: str,
    note: Callable[[str], None],
    phase: Phase = "centered",
) -> None:
    """Write a result in the colours of pictures, with the base's profile, EXIF and transparency.

    Args:
        target: the file; PNG and TIFF get 16 bits, as merging averages the steps of 8 bits away.
        rgb: ``(1, 3, sH, sW)`` in [0, 1].
        base: the base frame.
        name: how an error names it.
        note: called with a sentence when the profile has to be left out.
        phase: where the pixels of ``rgb`` lie.
    """
    layout = describe(base.pixels, name)
    alpha = unpack(base.pixels, layout, name)[1] if layout.channels == 4 else None
    if layout.dtype == np.uint8 and target.suffix.lower() in _DEEP:
        layout = dataclasses.replace(layout, dtype=np.dtype(np.uint16))
    pixels = pack(rgb, alpha, layout, phase)
    assert isinstance(pixels, np.ndarray)
    io.write_image(target, pixels, base.icc, base.exif, note)


def save_camera_rgb(target: Path, rgb: Tensor, base: io.RawFrame) -> None:
    """Write a result in linear camera RGB: as it is into DNG, developed but linear into OpenEXR, else developed.

    Args:
        target: the file.
        rgb: ``(1, 3, sH, sW)``, 0 at black and 1 at saturation, as the sensor lay.
        base: the base frame, whose white balance, colours and EXIF the result has.
    """
    camera = rgb[0].permute(1, 2, 0).float().cpu().numpy()
    suffix = target.suffix.lower()
    if suffix == ".dng":
        io.write_linear_dng(target, io.convert_depth(camera, "uint16"), base)
    elif suffix == ".exr":
        io.write_exr(target, io.develop(camera, base, linear=True))
    elif suffix in (".tif", ".tiff") and base.orientation == 1:
        bands = io.develop_bands(camera, base, "uint16")
        io.write_tiff_bands(target, bands, camera.shape, np.dtype(np.uint16), None, base.exif)
    else:
        pixels = io.develop(camera, base, "uint16" if suffix in _DEEP else "uint8")
        io.write_image(target, pixels, None, base.exif)


def in_srgb(base: io.Picture | io.RawFrame) -> Callable[[Tensor], Tensor]:
    """Return what makes sRGB, ``(1, 3, h, w)`` in [0, 1], of merged pixels, without turning them."""
    if isinstance(base, io.Picture):
        return lambda pixels: pixels
    frame = base
    return lambda pixels: develop(pixels.clamp(0, 1), frame.white_balance, frame.to_srgb)


def save_confidence(target: Path, weight: Tensor, others: int, base: io.Picture | io.RawFrame) -> None:
    """Write how much the other frames count as a gray picture: white where all of them do, black where none does.

    Args:
        target: the file.
        weight: ``(1, 1, sH, sW)``, in pixels of the other frames.
        others: number of frames beside the base.
        base: the base frame.
    """
    # A pixel of a mosaic is one of three colours.
    each, orientation = (1 / 3, base.orientation) if isinstance(base, io.RawFrame) else (1.0, 1)
    share = (weight[0, 0] / (each * max(others, 1))).clamp(0, 1).to(torch.float32).cpu().numpy()
    io.write_image(target, np.ascontiguousarray(io.turn_upright(share, orientation)))
