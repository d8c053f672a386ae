"""Makes burst-crops.png: what `msr burst` gains, on bursts simulated from photo-original.png.

Usage: python examples/make_burst_crops.py

Above RAW (15 frames, x4, a network), below JPEG (8 frames, x2, no network); from left to right the first frame alone,
developed by LibRaw and enlarged by cubic convolution, `msr burst`, and the truth. PSNR of the whole picture is printed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from msr import io
from msr.metrics import psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.burst import BurstOptions, merge_burst_files
from msr.pipelines.burst_sim import simulate_burst_files
from msr.pipelines.burst_sources import burst_sources

HERE = Path(__file__).parent
GAP = 4
#: Scale, frames, whether JPEG, and the place shown: top, left, height, width.
ROWS = ((4, 15, False, (40, 150, 120, 150)), (2, 8, True, (330, 128, 106, 150)))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) of 8 or 16 bits to (3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / np.iinfo(pixels.dtype).max


def row(folder: Path, scale: int, count: int, jpeg: bool, place: tuple[int, int, int, int]) -> np.ndarray:
    """Three crops side by side, (h, w, 3) uint8."""
    *frames, truth = simulate_burst_files(HERE / "photo-original.png", folder, count=count, scale=scale, jpeg=jpeg)
    merge_burst_files(frames, folder / "merged.png", scale, options=BurstOptions(base="first"))
    alone = tensor(burst_sources(frames)[0].load().pixels)
    pictures = [resize(alone[None], scale=scale)[0]]
    pictures += [tensor(io.read_image(path).pixels) for path in (folder / "merged.png", truth)]
    eight = [quantize(picture.clamp(0, 1)) for picture in pictures]
    print(f"{'JPEG' if jpeg else 'RAW'} x{scale}, {count} frames: one frame, merged:", end=" ")
    print(", ".join(f"{psnr(picture, eight[2], crop=16):.2f} dB" for picture in eight[:2]))
    top, left, height, width = place
    crops = [picture[:, top : top + height, left : left + width] for picture in eight]
    gap = torch.ones(3, height, GAP)
    joined = torch.cat([crops[0], gap, crops[1], gap, crops[2]], 2)
    return joined.mul(255).round().byte().permute(1, 2, 0).numpy()


def main() -> None:
    """Make the picture."""
    with tempfile.TemporaryDirectory() as work:
        rows = [row(Path(work) / str(number), *words) for number, words in enumerate(ROWS)]
    picture = np.concatenate([rows[0], np.full((GAP, rows[0].shape[1], 3), 255, np.uint8), rows[1]])
    cv2.imwrite(str(HERE / "burst-crops.png"), picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
