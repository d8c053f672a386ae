"""What blur, noise and JPEG cost a burst: python -m benchmarks.pipelines.burst_conditions PHOTOS --models NAME ..

Of each photo bursts of 8 frames at x4 (`msr.burst_simulation.simulate_jpeg_burst`), as the optics blur them, with light
and strong noise, kept in 8 bits or as JPEG files. They are merged by networks of kind burst, and without one; networks
of kind image enlarge the base frame. PSNR of RGB in 8-bit sRGB against the photo, 16 output pixels left out at the
border.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pipelines.burst_quality import save, single
from msr import io
from msr.burst_simulation import simulate_jpeg_burst
from msr.degradation import to_tensor
from msr.metrics import psnr, quantize
from msr.models import load_model
from msr.pipelines.burst import merge_burst
from msr.pipelines.burst_protocol import CROP, handheld
from msr.pipelines.evaluate import read_rgb
from msr.pipelines.heap import keep_freed_memory

SCALE, COUNT = 4, 8


class Condition(NamedTuple):
    """Standard deviations of blur (low-resolution pixels) and noise (range 1); JPEG quality, None: kept in 8 bits."""

    blur: float
    noise: float
    quality: int | None


CONDITIONS = (
    Condition(0.0, 0.01, None),
    Condition(0.0, 0.01, 95),
    Condition(0.0, 0.01, 85),
    Condition(0.0, 0.03, 95),
    Condition(0.2, 0.01, 95),
    Condition(0.4, 0.01, 95),
    Condition(0.4, 0.02, 85),
)


def merged(frames: Tensor, model: nn.Module) -> Tensor:
    """Frames (N, 3, H, W) as one (3, 4H, 4W)."""
    if model.kind == "burst":
        return torch.as_tensor(merge_burst(list(frames), SCALE, model))
    with torch.inference_mode():
        return model(frames[:1])[0]


def rows(photos: list[Path], condition: Condition, models: dict[str, nn.Module]) -> Iterator[dict[str, float]]:
    """For each photo: PSNR of each way."""
    for index, path in enumerate(photos):
        photo = read_rgb(path)
        scene = cv2.GaussianBlur(photo, (0, 0), condition.blur * SCALE) if condition.blur else photo
        rng = np.random.default_rng(index)
        burst = simulate_jpeg_burst(scene, COUNT, SCALE, rng, noise=condition.noise, quality=condition.quality)
        frames = to_tensor(burst.frames)
        truth = to_tensor(photo)[:, : frames.shape[2] * SCALE, : frames.shape[3] * SCALE]
        results = {"cubic": single(burst, SCALE), "handheld": handheld(burst, SCALE)}
        results |= {name: merged(frames, model) for name, model in models.items()}
        yield {way: psnr(quantize(x.clamp(0, 1)), truth, crop=CROP) for way, x in results.items()}


def main() -> None:
    """Print a table of means over the photos."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_conditions", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--models", nargs="+", required=True, help="names or weights files, of kind burst or image")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    photos = io.image_files(options.data)[: options.limit]
    models = {Path(name).stem: load_model(name).to(memory_format=torch.channels_last) for name in options.models}  # type: ignore[call-overload]
    print(f"{len(photos)} photos, x{SCALE}, {COUNT} frames")
    print(f"| blur | noise | JPEG | cubic | handheld | {' | '.join(models)} |\n{'|---' * (5 + len(models))}|")
    taken: dict[str, object] = {"photos": [path.stem for path in photos], "conditions": CONDITIONS}
    figures = []
    for condition in CONDITIONS:
        found = list(rows(photos, condition, models))
        figures.append({way: [round(row[way], 3) for row in found] for way in found[0]})
        means = " | ".join(f"{np.mean(values):.2f}" for values in figures[-1].values())
        print(f"| {condition.blur} | {condition.noise} | {condition.quality or 'no'} | {means} |", flush=True)
    save("burst_conditions", taken | {"psnr": figures}, options.json)


if __name__ == "__main__":
    main()
