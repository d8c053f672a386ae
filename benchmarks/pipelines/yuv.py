"""Planes of a clip to RGB and back: msr.pipelines.yuv beside swscale with the conversion to and from float tensors."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from torch import Tensor

from benchmarks.common import Case
from msr.io import ClipFormat, planar_format
from msr.pipelines.yuv import from_rgb, to_rgb

SWSCALE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


def cases(device: torch.device) -> list[Case]:
    """Full HD in and 1440p out, in 8 and in 10 bits."""
    found = []
    for width, height in ((1920, 1080), (2560, 1440)):
        for name in ("yuv420p", "yuv420p10le", "yuv444p"):
            pixels = planar_format(name)
            clip = ClipFormat(width, height, Fraction(25), Fraction(1, 25), pixels, matrix=1, chroma_location="left")
            rgb = torch.rand((1, 3, height, width), generator=torch.Generator().manual_seed(0)).to(device)
            planes = from_rgb(rgb, clip)
            frame = _frame(planes, name, width, height)
            there: dict[str, Callable[[], object]] = {
                "swscale": partial(_swscale_to_rgb, frame, name, device),
                "msr": partial(to_rgb, planes, clip),
            }
            back: dict[str, Callable[[], object]] = {
                "swscale": partial(_swscale_from_rgb, rgb, name),
                "msr": partial(from_rgb, rgb, clip),
            }
            found.append(Case(f"{name} to RGB {width}x{height}", there))
            found.append(Case(f"RGB to {name} {width}x{height}", back))
    return found


def _frame(planes: list[Tensor], name: str, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, name)
    for plane, tensor in zip(frame.planes, planes, strict=True):
        values: Any = tensor.cpu().numpy()
        rows = np.frombuffer(memoryview(plane), values.dtype).reshape(-1, plane.line_size // values.itemsize)
        rows[:, : values.shape[1]] = values
    return frame


def _swscale_to_rgb(frame: av.VideoFrame, name: str, device: torch.device) -> Tensor:
    deep = "10" in name
    rgb = frame.reformat(
        format="rgb48le" if deep else "rgb24",
        src_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SWSCALE,
    ).to_ndarray()
    return torch.from_numpy(rgb).to(device).permute(2, 0, 1)[None].float().div_(65535 if deep else 255)


def _swscale_from_rgb(rgb: Tensor, name: str) -> av.VideoFrame:
    deep = "10" in name
    levels = rgb[0].permute(1, 2, 0).clamp(0, 1).mul_(65535 if deep else 255).round_()
    array = levels.to(torch.uint16 if deep else torch.uint8).contiguous().cpu().numpy()
    return av.VideoFrame.from_ndarray(array, format="rgb48le" if deep else "rgb24").reformat(
        format=name,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=SWSCALE,
    )
