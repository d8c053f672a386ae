"""Whether merging is ever worse than one frame: python -m benchmarks.pipelines.burst_safety PHOTOS [--scenes N].

Bursts of simulated scenes, each with an object that moves by itself and a frame of something else. PSNR in sRGB of the
merged picture less that of the best single frame: where the object is in any frame, and of the whole picture.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.pipelines.burst_quality import SETTINGS, save, simulated, single
from msr import io
from msr.burst_simulation import SimulatedBurst, Trouble
from msr.camera import develop
from msr.metrics import quantize
from msr.pipelines.burst_protocol import CROP, handheld
from msr.pipelines.evaluate import read_rgb

LIMIT = -0.05


def shown(picture: Tensor, burst: SimulatedBurst) -> Tensor:
    """A picture in the space of the burst as 8-bit sRGB."""
    if burst.sensor is None:
        return quantize(picture)
    return quantize(develop(picture, burst.sensor.white_balance, burst.sensor.to_srgb))


def psnr_in(picture: Tensor, truth: Tensor, where: Tensor) -> float:
    """PSNR over the pixels of a mask (1, H, W)."""
    error = ((picture - truth).double().square() * where).sum() / (3 * where.sum())
    return -10.0 * math.log10(float(error))


def differences(burst: SimulatedBurst, scale: int) -> tuple[float, float]:
    """Merged less single, decibels: where the object is, and everywhere but the border."""
    truth, one, merged = (shown(x, burst) for x in (burst.truth, single(burst, scale), handheld(burst, scale)))
    inner = burst.moving.clone().fill_(False)
    inner[:, CROP:-CROP, CROP:-CROP] = True
    region, whole = (
        psnr_in(merged, truth, where) - psnr_in(one, truth, where) for where in (burst.moving & inner, inner)
    )
    return region, whole


def main() -> None:
    """Print the differences, and fail where merging is worse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_safety", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--scenes", type=int, default=20, help="how many (20)")
    parser.add_argument("--settings", nargs="+", default=["RAW x2", "JPEG x2"], choices=list(SETTINGS))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos = io.image_files(options.data)
    print("| burst | scenes | object: mean | worst | whole: mean | worst |\n|---|---|---|---|---|---|")
    taken: dict[str, object] = {}
    failed = []
    for setting in options.settings:
        _, scale, count = SETTINGS[setting]
        found = []
        for index in range(options.scenes):
            photo, other = (read_rgb(photos[(index + step) % len(photos)]) for step in (0, 1))
            foreign = 1 + index % (count - 1)
            burst = simulated(photo, 1000 + index, setting, Trouble(other=other, moving=True, foreign=foreign))
            found.append(differences(burst, scale))
        region, whole = np.array(found).T
        figures = f"{region.mean():+.3f} | {region.min():+.3f} | {whole.mean():+.3f} | {whole.min():+.3f}"
        print(f"| {setting} | {len(found)} | {figures} |", flush=True)
        taken[setting] = {"region": region.round(4).tolist(), "whole": whole.round(4).tolist()}
        if region.mean() < LIMIT or whole.min() < 0.0:
            failed.append(setting)
    save("burst_safety", taken, options.json)
    if failed:
        raise SystemExit(f"merging is worse than one frame: {', '.join(failed)}")


if __name__ == "__main__":
    main()
