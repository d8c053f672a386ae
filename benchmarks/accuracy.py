"""Largest errors against float64: python -m benchmarks.accuracy [--device cpu] [--out DIR].

Errors of coordinates grow with the width of the image; those of the features' own rounding do not. So features are
rounded first, and what is compared is the op on them with the float64 reference on the very same numbers.
"""

import argparse
import importlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import common
from msr.ops import deform_conv2d, deform_conv2d_reference, flow_warp, flow_warp_reference

WIDTHS = (640, 1920, 3840)
HEIGHT = 32


@dataclass(frozen=True)
class Row:
    """The largest absolute difference of one candidate from float64 for features from 0 to 1; None where it has NaN."""

    case: str
    candidate: str
    width: int
    largest_error: float | None


def _warp_with_grid_sample(x: Tensor, flow: Tensor) -> Tensor:
    """What one writes without msr, in the dtype of the features."""
    columns = torch.arange(x.shape[3], device=x.device, dtype=x.dtype)
    rows = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None]
    flow = flow.to(x.dtype)
    across = (2 * (columns + flow[:, 0]) + 1) / x.shape[3] - 1
    down = (2 * (rows + flow[:, 1]) + 1) / x.shape[2] - 1
    return F.grid_sample(x, torch.stack((across, down), -1), align_corners=False)


def _torchvision() -> Callable[..., Tensor] | None:
    try:
        return cast(Callable[..., Tensor], importlib.import_module("torchvision.ops").deform_conv2d)
    except ImportError:
        return None


def rows(device: torch.device) -> list[Row]:
    """Compare warps and deformable convolutions in every dtype at every width."""
    found = []
    generator = torch.Generator().manual_seed(0)
    torchvision = _torchvision()
    for width in WIDTHS:
        features = torch.rand((1, 8, HEIGHT, width), generator=generator, dtype=torch.float64).to(device)
        flow = (40 * torch.rand((1, 2, HEIGHT, width), generator=generator) - 20).to(device)
        weight = (torch.rand((8, 8, 3, 3), generator=generator, dtype=torch.float64) / 72).to(device)
        offset = (8 * torch.rand((1, 18, HEIGHT, width), generator=generator) - 4).to(device)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")

            def note(case: str, candidate: str, got: Tensor, expected: Tensor, width: int = width) -> None:
                error = (got.double() - expected).abs().max().item()
                found.append(Row(case, candidate, width, None if math.isnan(error) else error))

            x, kernel = features.to(dtype), weight.to(dtype)
            warped = flow_warp_reference(x.double(), flow.double())
            note("flow_warp", f"msr, {name}", flow_warp(x, flow), warped)
            if dtype != torch.bfloat16:  # which crashes grid_sample of torch 2.13 on the CPU
                note("flow_warp", f"grid_sample, {name}", _warp_with_grid_sample(x, flow), warped)
            convolved = deform_conv2d_reference(x.double(), offset.double(), kernel.double(), padding=1)
            note("deform_conv2d", f"msr, {name}", deform_conv2d(x, offset, kernel, padding=1), convolved)
            if torchvision is not None and dtype != torch.bfloat16:
                out = torchvision(x, offset.to(dtype), kernel, padding=1)
                note("deform_conv2d", f"torchvision, {name}", out, convolved)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="Errors against float64.")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--out", default=common.RESULTS, type=Path, help="folder for the JSON file")
    options = parser.parse_args()
    about, found = common.about(options.device), rows(options.device)
    for row in found:
        error = "NaN" if row.largest_error is None else f"{row.largest_error:.1e}"
        print(f"{row.case:<16} {row.candidate:<24} {row.width:>5} pixels  {error}")
    options.out.mkdir(parents=True, exist_ok=True)
    device = "-".join(str(about["device"]).lower().split())
    path = options.out / f"accuracy-{device}-{about['date']}.json"
    report = {"benchmark": "accuracy", "rows": [asdict(row) for row in found], "about": about}
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
