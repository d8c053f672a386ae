"""How low-resolution pictures come about: the degradations that training and the evaluation protocols share."""

from __future__ import annotations

import math
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from msr.io.compression import through_h264
from msr.metrics import quantize
from msr.ops.resize import Phase, resize

DegradationName = Literal["bi", "bd", "real", "box", "raw"]

# How a burst shakes, in training and in the evaluation protocol: low-resolution pixels, degrees, range 1.
BURST_SHIFT, BURST_ROTATION, BURST_NOISE = 4.0, 1.0, 0.01

# "real": how many clips are neither noisy nor compressed, and how many are reduced by points instead of areas.
CLEAN_SHARE, POINT_SHARE = 0.35, 0.2

# "real": the largest standard deviation of the noise where none is named, range 1.
REAL_NOISE = 0.012

# "raw" is not for pictures one by one: `msr.burst_simulation.simulate_raw_burst` makes whole bursts.
PHASES: dict[str, Phase] = {
    "bi": "centered",
    "bd": "corner",
    "real": "centered",
    "box": "centered",
    "raw": "centered",
}


def to_tensor(frames: np.ndarray) -> Tensor:
    """``(.., H, W, 3)`` uint8 to ``(.., 3, H, W)`` float32 in [0, 1].

    Example:
        >>> to_tensor(np.full((2, 3, 3), 255, np.uint8)).shape
        torch.Size([3, 2, 3])
    """
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, -3))).float().div_(255.0)


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur ``(B, C, H, W)`` with a Gaussian of ``sigma`` pixels, cut at four of them, the edges mirrored.

    Example:
        >>> gaussian_blur(torch.ones(1, 3, 8, 8), 1.6).shape
        torch.Size([1, 3, 8, 8])
    """
    radius = min(max(1, int(4.0 * sigma + 0.5)), min(x.shape[-2:]) - 1)
    t = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(t**2) / (2.0 * sigma**2))
    kernel = (kernel / kernel.sum()).to(x)
    channels = x.shape[1]
    x = F.pad(x, (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def degrade_bi(hr: Tensor, scale: int) -> Tensor:
    """BI: MATLAB's antialiased cubic reduction, centred. ``(B, C, H, W)`` to ``(B, C, H/s, W/s)``; s divides H and W.

    Example:
        >>> degrade_bi(torch.rand(1, 3, 8, 12), 4).shape
        torch.Size([1, 3, 2, 3])
    """
    return resize(hr, scale=1.0 / scale)


def degrade_bd(hr: Tensor, scale: int, sigma: float = 1.6) -> Tensor:
    """BD: Gaussian blur, then pixels 0, s, 2s, .. are kept (the protocol of Vid4 and of DUF, Jo et al. 2018).

    ``(B, C, H, W)`` to ``(B, C, H/s, W/s)``; s divides H and W. Output pixel y lies on pixel s y of the original.

    Example:
        >>> degrade_bd(torch.rand(1, 3, 8, 12), 4).shape
        torch.Size([1, 3, 2, 3])
    """
    return gaussian_blur(hr, sigma)[..., ::scale, ::scale].contiguous()


def degrade_box(hr: Tensor, scale: int, sigma: float = 0.0, rng: np.random.Generator | None = None) -> Tensor:
    """A sensor: each pixel is the mean over its area, then Gaussian noise of ``sigma`` (range 1), clipped to [0, 1].

    ``(B, C, H, W)`` to ``(B, C, H/s, W/s)``, s dividing H and W; ``rng`` is that of the noise.

    Example:
        >>> degrade_box(torch.ones(1, 3, 8, 12), 4).mean()
        tensor(1.)
    """
    lr = F.avg_pool2d(hr, scale)
    if sigma > 0.0:
        rng = rng or np.random.default_rng()
        lr = lr + torch.from_numpy(rng.standard_normal(lr.shape, dtype=np.float32)) * sigma
    return lr.clamp(0.0, 1.0)


def compress_jpeg(pictures: Tensor, quality: int) -> Tensor:
    """Through JPEG of ``quality`` (0 to 100) and back: ``(B, 3, H, W)`` in [0, 1].

    Example:
        >>> compress_jpeg(torch.rand(1, 3, 8, 12), 80).shape
        torch.Size([1, 3, 8, 12])
    """
    frames = pictures.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    out = []
    for frame in frames:
        data = cv2.imencode(".jpg", np.ascontiguousarray(frame[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        out.append(np.ascontiguousarray(decoded[..., ::-1]))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float().div(255)


def compress_h264(frames: Tensor, crf: int) -> Tensor:
    """Through H.264 of a constant rate factor and back: the frames of a clip, ``(T, 3, H, W)`` in [0, 1].

    Example:
        >>> compress_h264(torch.rand(2, 3, 16, 16), 23).shape
        torch.Size([2, 3, 16, 16])
    """
    pictures = frames.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    return to_tensor(through_h264(pictures, crf))


def degrade_real(
    hr: Tensor,
    scale: int,
    rng: np.random.Generator,
    plain: float = 0.0,
    h264: float = 0.0,
    noise: float = REAL_NOISE,
) -> Tensor:
    """People's own clips: one random blur for all frames, a centred reduction, and mostly light noise and compression.

    A third is clean, and a fifth is taken from single points of the blurred frames, as BD does (at this phase), so that
    a model loses little on inputs that have nothing to be cleaned of. ``(T, 3, H, W)`` in [0, 1] to
    ``(T, 3, H/s, W/s)``, s dividing H and W; ``rng`` decides all.

    Of all clips the share ``plain`` is BI, unblurred. Of those that are not clean the share ``h264`` is compressed as a
    clip, of the others most frame by frame (JPEG). ``noise`` is its largest standard deviation.

    Example:
        >>> degrade_real(torch.rand(2, 3, 8, 12), 4, np.random.default_rng(0)).shape
        torch.Size([2, 3, 2, 3])
    """
    if plain > 0.0 and rng.random() < plain:
        return quantize(degrade_bi(hr, scale).clamp(0.0, 1.0))
    way, clean = rng.random(), rng.random() < CLEAN_SHARE
    if way < POINT_SHARE:
        # A point's value; where the scale is even, the middle lies between pixels, and their mean is taken.
        around = slice((scale - 1) // 2, scale // 2 + 1)
        blurred = gaussian_blur(hr, float(rng.uniform(0.3, 0.5)) * scale)
        tiles = blurred.unflatten(-1, (-1, scale)).unflatten(-3, (-1, scale))
        lr = tiles[..., around, :, around].mean(dim=(-1, -3))
    else:
        blurred = gaussian_blur(hr, float(rng.uniform(0.2, 0.35 * scale + 0.4)))
        lr = F.avg_pool2d(blurred, scale) if way < (1.0 + POINT_SHARE) / 2.0 else resize(blurred, scale=1.0 / scale)
    if not clean:
        sigma = float(rng.uniform(0.0, noise))
        lr = lr + torch.from_numpy(rng.standard_normal(lr.shape, dtype=np.float32)) * sigma
        if h264 > 0.0 and rng.random() < h264:
            lr = compress_h264(lr, int(rng.integers(14, 31)))
        elif rng.random() < 0.7:
            lr = compress_jpeg(lr, int(rng.integers(65, 97)))
    return quantize(lr.clamp(0.0, 1.0))


def degrade(
    hr: Tensor,
    name: DegradationName,
    scale: int,
    rng: np.random.Generator,
    noise: float = 0.0,
    plain: float = 0.0,
    h264: float = 0.0,
) -> Tensor:
    """Reduce pictures by a named degradation.

    Args:
        hr: ``(B, 3, H, W)`` in [0, 1]; ``scale`` divides H and W.
        name: ``"bi"``, ``"bd"``, ``"box"`` or ``"real"`` (see the functions of these names).
        scale: reduction.
        rng: decides what is random in ``"real"`` and the noise of ``"box"``.
        noise: standard deviation of what ``"box"`` adds, the largest of what ``"real"`` adds (0: 0.012); range 1.
        plain: of ``"real"``, the share that is ``"bi"``.
        h264: of what ``"real"`` does not leave clean, the share that is compressed as a clip.

    Returns:
        ``(B, 3, H/s, W/s)``, at the phase that ``PHASES`` tells.

    Raises:
        ValueError: no such degradation.

    Example:
        >>> degrade(torch.rand(1, 3, 8, 12), "bd", 4, np.random.default_rng(0)).shape
        torch.Size([1, 3, 2, 3])
    """
    if name == "bi":
        return degrade_bi(hr, scale)
    if name == "bd":
        return degrade_bd(hr, scale)
    if name == "box":
        return degrade_box(hr, scale, noise, rng)
    if name == "real":
        return degrade_real(hr, scale, rng, plain, h264, noise or REAL_NOISE)
    raise ValueError(f"degradation must be bi, bd, box or real, got {name!r}")


def burst_from_photo(
    photo: np.ndarray, count: int, scale: int, rng: np.random.Generator, noise: float = BURST_NOISE
) -> tuple[Tensor, Tensor]:
    """A burst of a photo: all frames but the first shaken at random, each reduced by area, noised, kept in 8 bits.

    Args:
        photo: ``(H, W, 3)`` uint8.
        count: frames.
        scale: reduction.
        rng: of the shake and the noise; a longer burst from the same state begins with the same frames.
        noise: standard deviation, range 1.

    Returns:
        Frames ``(N, 3, H/s, W/s)`` and the original of the base frame ``(3, H, W)``, cut to a multiple of the scale.

    Example:
        >>> frames, original = burst_from_photo(np.zeros((9, 14, 3), np.uint8), 2, 4, np.random.default_rng(0))
        >>> frames.shape, original.shape
        (torch.Size([2, 3, 2, 3]), torch.Size([3, 8, 12]))
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
