"""What more frames bring: python -m benchmarks.pipelines.burst_frames PHOTOS [--limit N].

Of each photo one burst of 30 at x4, of which the first 2, 15 and 30 frames are merged (RAW, `burst-raw-x4` beside
merging without training), or the first 2, 8 and 30 (sRGB of 8 bits with noise, `burst-x4`). PSNR of RGB in 8-bit sRGB,
16 output pixels left out at the border. Fails where a mean falls with the number of frames.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.pipelines.burst_quality import save
from msr import io
from msr.degradation import BURST_NOISE, burst_from_photo
from msr.metrics import psnr, quantize
from msr.models import load_model
from msr.ops.resize import resize
from msr.pipelines.burst import merge_burst
from msr.pipelines.burst_protocol import CROP, handheld, learned, protocol_burst, raw_figures, single_frame
from msr.pipelines.evaluate import read_rgb
from msr.pipelines.handheld import Shot, merge_shots

SCALE = 4
COUNTS = {"RAW": (2, 15, 30), "sRGB": (2, 8, 30)}


def raw_rows(photos: list[Path]) -> Iterator[dict[str, float]]:
    """For each photo: PSNR of one frame, and of both ways for each number of frames."""
    model = load_model("burst-raw-x4")
    for index, path in enumerate(photos):
        burst = protocol_burst(read_rgb(path), index, max(COUNTS["RAW"]), SCALE)
        row = {"single": raw_figures(single_frame(burst, SCALE), burst)[0]}
        for count in COUNTS["RAW"]:
            row[f"handheld {count}"] = raw_figures(handheld(burst, SCALE, count), burst)[0]
            row[f"learned {count}"] = raw_figures(learned(burst, model, count), burst)[0]
        yield row


def picture_rows(photos: list[Path]) -> Iterator[dict[str, float]]:
    """The same for sRGB frames, as the protocol ``burst`` makes them."""
    model = load_model("burst-x4")
    for index, path in enumerate(photos):
        rng = np.random.default_rng(index)
        frames, truth = burst_from_photo(read_rgb(path), max(COUNTS["sRGB"]), SCALE, rng, BURST_NOISE)

        def figure(picture: torch.Tensor, wanted: torch.Tensor = truth) -> float:
            return psnr(quantize(picture.clamp(0, 1)), wanted, crop=CROP)

        row = {"single": figure(resize(frames[:1], scale=SCALE)[0])}
        for count in COUNTS["sRGB"]:
            row[f"handheld {count}"] = figure(merge_shots([Shot(x[None]) for x in frames[:count]], SCALE).image[0])
            row[f"learned {count}"] = figure(torch.as_tensor(merge_burst(list(frames[:count]), SCALE, model)))
        yield row


def main() -> None:
    """Print a table of means over the photos."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_frames", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--settings", nargs="+", default=list(COUNTS), choices=list(COUNTS), help="only these")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos = io.image_files(options.data)[: options.limit]
    print(f"{len(photos)} photos, x{SCALE}\n| burst | way | single | 2 | 8 or 15 | 30 |\n|---|---|---|---|---|---|")
    taken: dict[str, object] = {"photos": [path.stem for path in photos]}
    falling = []
    for setting in options.settings:
        rows = list(raw_rows(photos) if setting == "RAW" else picture_rows(photos))
        taken[setting] = [{way: round(value, 3) for way, value in row.items()} for row in rows]
        for way in ("handheld", "learned"):
            names = ["single", *(f"{way} {count}" for count in COUNTS[setting])]
            means = [float(np.mean([row[name] for row in rows])) for name in names]
            print(f"| {setting} | {way} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |", flush=True)
            if any(more < less for less, more in pairwise(means)):
                falling.append(f"{setting} {way}")
    save("burst_frames", taken, options.json)
    if falling:
        raise SystemExit(f"more frames make it worse: {', '.join(falling)}")


if __name__ == "__main__":
    main()
