"""How low-resolution pictures come about: the degradations that training and the evaluation protocols share."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from msr.metrics import quantize
from msr.nn.resize import Phase, resize

DegradationName = Literal["bi", "bd", "real", "box"]

# How a burst shakes, in training and in the evaluation protocol: low-resolution pixels, degrees, range 1.
BURST_SHIFT, BURST_ROTATION, BURST_NOISE = 4.0, 1.0, 0.01

PHASES: dict[str, Phase] = {"bi": "centered", "bd": "corner", "real": "centered", "box": "centered"}


def to_tensor(frames: np.ndarray) -> Tensor:
    """(.., H, W, 3) uint8 to (.., 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))).float().div_(255.0)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur ``(B, C, H, W)`` with a Gaussian cut at four standard deviations, the edges mirrored."""
    radius = max(1, min(int(4.0 * sigma + 0.5), min(x.shape[-2:]) - 1))
    t = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(t**2) / (2.0 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    channels = x.shape[1]
    x = F.pad(x, (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def degrade_bi(hr: Tensor, scale: int) -> Tensor:
    """BI: MATLAB's antialiased cubic reduction, centred. ``(B, C, H, W)`` to ``(B, C, H/s, W/s)``; s must divide H and W."""
    return resize(hr, scale=1.0 / scale)


def degrade_bd(hr: Tensor, scale: int, sigma: float = 1.6) -> Tensor:
    """BD: Gaussian blur, then pixels 0, s, 2s, .. are kept (the protocol of Vid4 and of DUF, Jo et al. 2018)."""
    return gaussian_blur(hr, sigma)[..., ::scale, ::scale].contiguous()


def degrade_box(hr: Tensor, scale: int, sigma: float = 0.0, rng: np.random.Generator | None = None) -> Tensor:
    """A sensor: each pixel is the mean over its area, then Gaussian noise of ``sigma`` (range 1)."""
    lr = F.avg_pool2d(hr, scale)
    if sigma > 0.0:
        rng = rng or np.random.default_rng()
        lr = lr + torch.from_numpy(rng.standard_normal(lr.shape, dtype=np.float32)) * sigma
    return lr.clamp(0.0, 1.0)


def compress_jpeg(pictures: Tensor, quality: int) -> Tensor:
    """Through JPEG and back: ``(B, 3, H, W)`` in [0, 1]."""
    frames = pictures.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    out = []
    for frame in frames:
        data = cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        out.append(np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float().div(255)


def degrade_real(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """People's own clips: one random blur for all frames, a centred reduction, light noise, then compression (mostly).

    ``(T, 3, H, W)`` in [0, 1] to ``(T, 3, H/s, W/s)``.
    """
    sigma = float(rng.uniform(0.2, 0.35 * scale + 0.4))
    hr = gaussian_blur(hr, sigma)
    lr = F.avg_pool2d(hr, scale) if rng.random() < 0.5 else resize(hr, scale=1.0 / scale)
    noise = float(rng.uniform(0.0, 0.012))
    lr = lr + torch.from_numpy(rng.standard_normal(lr.shape, dtype=np.float32)) * noise
    if rng.random() < 0.7:
        lr = compress_jpeg(lr, int(rng.integers(65, 97)))
    return lr.clamp(0.0, 1.0)


def degrade(hr: Tensor, name: DegradationName, scale: int, rng: np.random.Generator, noise: float = 0.0) -> Tensor:
    """The degradation of that name on ``(B, 3, H, W)``; ``noise`` is the standard deviation that ``"box"`` adds."""
    if name == "bi":
        return degrade_bi(hr, scale)
    if name == "bd":
        return degrade_bd(hr, scale)
    if name == "box":
        return degrade_box(hr, scale, noise, rng)
    if name == "real":
        return degrade_real(hr, scale, rng)
    raise ValueError(f"degradation must be one of {', '.join(PHASES)}, got {name!r}")


def burst_from_photo(
    photo: np.ndarray, count: int, scale: int, rng: np.random.Generator, noise: float = BURST_NOISE
) -> tuple[Tensor, Tensor]:
    """A burst of a whole photo: every frame shaken at random but the base frame, reduced by area, noised, kept in 8 bits.

    Args:
        photo: ``(H, W, 3)`` uint8.
        count: frames.
        scale: reduction.
        rng: of the shake and the noise; a longer burst from the same state begins with the same frames.
        noise: standard deviation, range 1.

    Returns:
        Frames ``(N, 3, H/s, W/s)`` and the original of the base frame ``(3, H, W)``, cut to a multiple of the scale.
    """
    height, width = (n // scale * scale for n in photo.shape[:2])
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    frames = []
    for index in range(count):
        turn = math.radians(float(rng.uniform(-1, 1)) * BURST_ROTATION) * (index > 0)
        shift = rng.uniform(-1, 1, 2) * BURST_SHIFT * scale * (index > 0)
        c, s = math.cos(turn), math.sin(turn)
        linear = np.array([[c, -s], [s, c]])
        matrix = np.column_stack([linear, center - linear @ center + shift])
        flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
        frame = photo[:height, :width]
        if index:
            frame = cv2.warpAffine(photo, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        frames.append(quantize(degrade_box(to_tensor(frame)[None], scale, noise, rng)[0]))
    return torch.stack(frames), to_tensor(photo[:height, :width])
