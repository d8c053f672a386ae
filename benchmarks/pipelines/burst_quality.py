"""What merging bursts gains over one frame: python -m benchmarks.pipelines.burst_quality PHOTOS [--limit N].

Bursts simulated from photos (`msr.burst_simulation`): RAW of 15 frames at x2 and x4, JPEG of 8 frames at x2. The best
single frame is the base frame, as LibRaw demosaics it (AHD) or as the JPEG has it, enlarged by antialiased cubic
convolution. PSNR of RGB, 16 output pixels left out at the border: RAW in 8-bit sRGB and in linear camera RGB,
JPEG in 8-bit sRGB.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, about
from msr import io
from msr.burst_simulation import SimulatedBurst, Trouble, simulate_jpeg_burst
from msr.degradation import to_tensor
from msr.metrics import psnr, quantize
from msr.models import available_models, load_model
from msr.ops.resize import resize
from msr.pipelines.burst_protocol import CROP, handheld, learned, protocol_burst, raw_figures, single_frame
from msr.pipelines.evaluate import read_rgb

SETTINGS = {"RAW x2": (True, 2, 15), "RAW x4": (True, 4, 15), "JPEG x2": (False, 2, 8)}


def single(burst: SimulatedBurst, scale: int) -> Tensor:
    """The best single frame: (3, sH, sW) in the space of the burst."""
    if burst.sensor is not None:
        return single_frame(burst, scale)
    return resize(to_tensor(burst.frames[:1]), scale=scale)[0].clamp(0.0, 1.0)


def simulated(photo: np.ndarray, index: int, setting: str, trouble: Trouble | None = None) -> SimulatedBurst:
    """The burst of a photo under a setting of this benchmark; `index` is its seed."""
    raw, scale, count = SETTINGS[setting]
    if raw:
        return protocol_burst(photo, index, count, scale, trouble)
    return simulate_jpeg_burst(photo, count, scale, np.random.default_rng(index), trouble=trouble or Trouble())


def figures(result: Tensor, burst: SimulatedBurst) -> tuple[float, ...]:
    """PSNR in sRGB, and for RAW in linear camera RGB too."""
    if burst.sensor is not None:
        return raw_figures(result, burst)
    return (psnr(quantize(result), burst.truth, crop=CROP),)


def rows(photos: list[Path], setting: str, model: nn.Module | None) -> Iterator[dict[str, list[float]]]:
    """For each photo the figures of each way."""
    scale = SETTINGS[setting][1]
    for index, path in enumerate(photos):
        burst = simulated(read_rgb(path), index, setting)
        results = {"single": single(burst, scale), "handheld": handheld(burst, scale)}
        if model is not None:
            results["learned"] = learned(burst, model)
        yield {way: [round(f, 3) for f in figures(result, burst)] for way, result in results.items()}


def save(name: str, content: dict[str, object], path: Path | None) -> None:
    """Write figures as JSON, with what they were taken on; by default among the results."""
    report = {"benchmark": name, "taken": datetime.now(UTC).isoformat(timespec="seconds"), **content}
    report["about"] = about(torch.device("cpu"))
    device = "-".join(str(about(torch.device("cpu"))["device"]).lower().split())
    path = path or RESULTS / f"{name}-{device}-{about(torch.device('cpu'))['date']}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Print a table of means over the photos."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_quality", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of originals")
    parser.add_argument("--limit", type=int, help="use only the first so many")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), help="only these")
    parser.add_argument("--model", help="RAW weights for x4 (default: those that ship)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    photos = io.image_files(options.data)[: options.limit]
    shipped = [card.name for card in available_models() if card.kind == "burst-raw"]
    name = options.model or next(iter(shipped), None)
    model = load_model(name) if name else None
    print(f"{len(photos)} photos\n| burst | space | single frame | handheld | learned |\n|---|---|---|---|---|")
    everything: dict[str, object] = {"photos": [path.stem for path in photos]}
    for setting in options.settings:
        chosen = model if model is not None and SETTINGS[setting][:2] == (True, model.scale) else None
        taken = list(rows(photos, setting, chosen))
        everything[setting] = taken
        for place, space in enumerate(("sRGB", "linear") if SETTINGS[setting][0] else ("sRGB",)):
            means = {way: float(np.mean([row[way][place] for row in taken])) for way in taken[0]}
            gained = means["handheld"] - means["single"]
            last = f"{means['learned']:.2f} ({means['learned'] - means['handheld']:+.2f})" if chosen else ""
            line = f"| {setting} | {space} | {means['single']:.2f} | {means['handheld']:.2f} ({gained:+.2f}) | {last} |"
            print(line, flush=True)
    save("burst_quality", everything, options.json)


if __name__ == "__main__":
    main()
