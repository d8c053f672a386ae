"""What noise and JPEG cost a burst: python -m benchmarks.pipelines.compressed_bursts PHOTOS --models NAME ...

Of each photo bursts of 8 frames at x4 (`msr.burst_simulation.simulate_jpeg_burst`) with light and with strong noise,
kept in 8 bits or as JPEG files, merged by networks of kind burst, and without one; networks of kind image enlarge the
base frame. PSNR of RGB in 8-bit sRGB, 16 output pixels left out at the border.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

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
NOISES = (0.01, 0.03)
#: JPEG qualities; None: 8-bit pictures.
QUALITIES = (None, 95, 85, 70)


def merged(frames: Tensor, model: nn.Module) -> Tensor:
    """Frames (N, 3, H, W) as one (3, 4H, 4W)."""
    if model.kind == "burst":
        return torch.as_tensor(merge_burst(list(frames), SCALE, model))
    with torch.inference_mode():
        return model(frames[:1])[0]


def rows(
    photos: list[Path], noise: float, quality: int | None, models: dict[str, nn.Module]
) -> Iterator[dict[str, float]]:
    """For each photo: PSNR of each way."""
    for index, path in enumerate(photos):
        rng = np.random.default_rng(index)
        burst = simulate_jpeg_burst(read_rgb(path), COUNT, SCALE, rng, noise=noise, quality=quality)
        frames = to_tensor(burst.frames)
        results = {"cubic": single(burst, SCALE), "handheld": handheld(burst, SCALE)}
        results |= {name: merged(frames, model) for name, model in models.items()}
        yield {way: psnr(quantize(x.clamp(0, 1)), burst.truth, crop=CROP) for way, x in results.items()}


def main() -> None:
    """Print a table of means over the photos."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.compressed_bursts", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--models", nargs="+", required=True, help="names or weights files, of kind burst or image")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    photos = io.image_files(options.data)[: options.limit]
    models = {Path(name).stem: load_model(name).to(memory_format=torch.channels_last) for name in options.models}  # type: ignore[call-overload]
    print(f"{len(photos)} photos, x{SCALE}, {COUNT} frames\n| noise | JPEG | cubic | handheld | {' | '.join(models)} |")
    print("|---" * (4 + len(models)) + "|")
    everything: dict[str, object] = {"photos": [path.stem for path in photos]}
    for noise in NOISES:
        for quality in QUALITIES:
            taken = list(rows(photos, noise, quality, models))
            everything[f"noise {noise}, JPEG {quality}"] = [{k: round(v, 3) for k, v in row.items()} for row in taken]
            means = (f"{np.mean([row[way] for row in taken]):.2f}" for way in taken[0])
            print(f"| {noise} | {quality or 'no'} | {' | '.join(means)} |", flush=True)
    save("compressed_bursts", everything, options.json)


if __name__ == "__main__":
    main()
