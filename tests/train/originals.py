"""Photos and clips made on the spot for the tests of training."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from msr.degradation import gaussian_blur


def texture(seed: int, height: int, width: int, sigma: float = 1.5) -> np.ndarray:
    """Soft random colours, (H, W, 3) uint8."""
    noise = torch.from_numpy(np.random.default_rng(seed).random((1, 3, height, width), dtype=np.float32))
    soft = gaussian_blur(noise, sigma)
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    return (soft[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()


def save(path: Path, rgb: np.ndarray) -> Path:
    """Write a picture and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])
    return path


def photo_folder(folder: Path, count: int = 2, side: int = 128) -> Path:
    """A folder of textures."""
    for seed in range(count):
        save(folder / f"{seed}.png", texture(seed, side, side + 16 * seed))
    return folder


def moving(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """A texture that moves two pixels to the left a frame, (T, H, W, 3)."""
    long = texture(seed, height, width + 2 * count)
    return np.stack([long[:, 2 * t : 2 * t + width] for t in range(count)])


def frame_folder(folder: Path, frames: np.ndarray) -> Path:
    """A clip as numbered pictures."""
    for t, frame in enumerate(frames):
        save(folder / f"{t}.png", frame)
    return folder


def video_file(path: Path, frames: np.ndarray) -> Path:
    """A clip as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": "10"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path
