"""How exactly the frames of a burst are aligned: python -m benchmarks.pipelines.burst_alignment PHOTOS [--limit N].

RAW bursts of four frames at x2 with motion up to 4, 16 and 64 pixels and turns up to a degree. The mean end-point error
in pixels against the true motion, over tiles of 16 pixels that have texture (the smaller eigenvalue of the structure
tensor of the truth in sRGB, range 1, is at least 0.02 squared) and are seen whole in both frames.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pipelines.burst_quality import save
from msr import io
from msr.burst_simulation import Shake, SimulatedBurst, simulate_raw_burst
from msr.camera import develop
from msr.pipelines.burst_protocol import shot_of
from msr.pipelines.evaluate import read_rgb
from msr.pipelines.handheld.align import Aligner
from msr.pipelines.handheld.gray import gray_of

MOTIONS = (4, 16, 64)
TILE = 16
LIMIT = 0.1


def textured(burst: SimulatedBurst, scale: int) -> Tensor:
    """Which tiles have texture in both directions: (1, h, w) bool."""
    assert burst.sensor is not None
    shown = develop(F.avg_pool2d(burst.truth, scale), burst.sensor.white_balance, burst.sensor.to_srgb)
    gray = shown.mean(dim=0)[None, None]
    gx = F.pad(gray[..., 2:] - gray[..., :-2], (1, 1)) / 2
    gy = F.pad(gray[..., 2:, :] - gray[..., :-2, :], (0, 0, 1, 1)) / 2
    xx, xy, yy = (F.avg_pool2d(x, TILE)[0] for x in (gx * gx, gx * gy, gy * gy))
    smaller = (xx + yy) / 2 - torch.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return smaller >= 0.02**2


def errors(burst: SimulatedBurst, scale: int) -> np.ndarray:
    """The mean end-point error of each tile that counts, of all frames but the first."""
    found = []
    tiles = textured(burst, scale)
    shots = [shot_of(burst, index) for index in range(len(burst.frames))]
    grays = [gray_of(shot.pixels, shot.mosaic, shot.gains) for shot in shots]
    aligner = Aligner(grays[0])
    for index, gray in enumerate(grays[1:], 1):
        flow = aligner.align(gray).dense(*gray.shape[2:])[0]
        distance = (flow - burst.flows[index]).square().sum(dim=0, keepdim=True).sqrt()
        seen = F.avg_pool2d(burst.visible[index].float(), TILE) > 0.999
        found.append(F.avg_pool2d(distance, TILE)[tiles & seen])
    return torch.cat(found).numpy()


def main() -> None:
    """Print the errors, and fail where they are above the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_alignment", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos = io.image_files(options.data)[: options.limit]
    print(f"{len(photos)} photos\n| motion up to | tiles | mean error | median | 95 % |\n|---|---|---|---|---|")
    taken: dict[str, object] = {"photos": len(photos)}
    means = []
    for motion in MOTIONS:
        parts = []
        for index, path in enumerate(photos):
            rng = np.random.default_rng(index)
            burst = simulate_raw_burst(read_rgb(path), 4, 2, rng, shake=Shake(shift=float(motion)))
            with torch.inference_mode():
                parts.append(errors(burst, 2))
        tiles = np.concatenate(parts)
        mean, middle, most = float(tiles.mean()), float(np.median(tiles)), float(np.quantile(tiles, 0.95))
        print(f"| {motion} | {len(tiles)} | {mean:.4f} | {middle:.4f} | {most:.4f} |", flush=True)
        means.append(mean)
        taken[f"{motion} pixels"] = {"tiles": len(tiles), "mean": mean, "median": middle, "p95": most}
    save("burst_alignment", taken, options.json)
    if max(means) >= LIMIT:
        raise SystemExit(f"a mean error of {max(means):.3f} is not below {LIMIT}")


if __name__ == "__main__":
    main()
