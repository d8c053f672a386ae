"""How well the noise of sRGB frames is estimated: python -m benchmarks.pipelines.burst_noise PHOTOS [--limit N].

JPEG bursts at x2 simulated from photos with noise of known strength. What merging takes for the standard deviation of
the noise, over what it is: after JPEG, in pictures of half the size (`guide_of`), of single pixels and of means of
three by three. The truth is half the variance between two base frames of the same view with noise of their own, its
median over blocks of 8x8 (edges that JPEG treats differently are left out).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pipelines.burst_quality import save
from msr import io
from msr.burst_simulation import simulate_jpeg_burst
from msr.degradation import to_tensor
from msr.ops.flow_warp import flow_warp
from msr.pipelines.evaluate import read_rgb
from msr.pipelines.handheld.align import Aligner
from msr.pipelines.handheld.filters import box
from msr.pipelines.handheld.gray import gray_of
from msr.pipelines.handheld.noise import noise_at_most, noise_between
from msr.pipelines.handheld.robustness import guide_of

#: Standard deviation in sRGB, range 1, and quality of the JPEG; None: 8 bits only.
SETTINGS = ((0.003, 92), (0.01, None), (0.01, 92), (0.01, 75), (0.03, 92), (0.03, 75))


def block_median(difference: Tensor) -> Tensor:
    """Of squares, for each colour: (3,)."""
    return F.avg_pool2d(difference.square(), 8).flatten(2).median(dim=2).values[0]


def ratios(photo: np.ndarray, index: int, noise: float, quality: int | None) -> list[float]:
    """Estimated over true: of pixels and of means, the mean over the colours."""

    def taken(count: int, seed: int) -> list[Tensor]:
        rng = np.random.default_rng(seed)
        burst = simulate_jpeg_burst(photo, count, 2, rng, noise=noise, quality=quality)
        return [to_tensor(frame)[None] for frame in burst.frames]

    frames, again = taken(2, index), taken(1, 1000 + index)
    grays = [gray_of(frame, None, (1.0, 1.0, 1.0)) for frame in frames]
    flow = Aligner(grays[0]).align(grays[1]).dense(*grays[0].shape[2:])
    base, other, same = (guide_of(frame, None) for frame in (*frames, *again))
    warped = flow_warp(other, F.avg_pool2d(flow, 2) / 2, interpolation="bicubic", padding_mode="border")
    found = noise_at_most(base).least(noise_between(base, warped))
    difference = (base - same) / 2**0.5
    pairs = ((found.pixel, block_median(difference)), (found.mean, block_median(box(difference, 1))))
    return [float((estimate.flatten() / true).sqrt().mean()) for estimate, true in pairs]


def main() -> None:
    """Print the median over the photos, and the least and the largest."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_noise", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos = io.image_files(options.data)[: options.limit]
    print(f"{len(photos)} photos\n| noise, of 255 | JPEG | pixels: median (from .. to) | means |\n|---|---|---|---|")
    taken: dict[str, object] = {"photos": [path.stem for path in photos]}
    for noise, quality in SETTINGS:
        with torch.inference_mode():
            rows = [ratios(read_rgb(path), index, noise, quality) for index, path in enumerate(photos)]
        cells = [f"{np.median(x):.2f} ({min(x):.2f} .. {max(x):.2f})" for x in zip(*rows, strict=True)]
        print(f"| {255 * noise:.1f} | {quality or 'none'} | " + " | ".join(cells) + " |", flush=True)
        taken[f"noise {noise}, JPEG {quality}"] = [[round(x, 3) for x in row] for row in rows]
    save("burst_noise", taken, options.json)


if __name__ == "__main__":
    main()
