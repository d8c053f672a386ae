"""Run benchmarks: python -m benchmarks [--device cpu] [--threads N] [--seconds S] [--only TEXT] [--out DIR] [NAME]."""

import argparse
import importlib
from pathlib import Path

import torch

from benchmarks import common

# Module of each benchmark: it has `cases(device) -> list[Case]`.
BENCHMARKS = {
    "flow_warp": "benchmarks.ops.flow_warp",
    "deform_conv2d": "benchmarks.ops.deform_conv2d",
    "flow_guided_deform_conv2d": "benchmarks.ops.flow_guided_deform_conv2d",
    "correlation": "benchmarks.ops.correlation",
    "correlation_lookup": "benchmarks.ops.correlation_lookup",
    "splat": "benchmarks.ops.splat",
    "kernel_merge": "benchmarks.ops.kernel_merge",
    "local_contrast_norm": "benchmarks.ops.local_contrast_norm",
    "conv_transpose2d": "benchmarks.ops.conv_transpose2d",
    "conv_pixel_shuffle": "benchmarks.ops.conv_pixel_shuffle",
    "resize": "benchmarks.ops.resize",
    "yuv": "benchmarks.pipelines.yuv",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time the ops against their references.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", default=torch.get_num_threads(), type=int, help="CPU threads (default: all)")
    parser.add_argument("--seconds", default=3.0, type=float, help="time for each comparison (default: 3)")
    parser.add_argument("--only", default="", help="only the comparisons whose name contains this")
    parser.add_argument("--out", default=common.RESULTS, type=Path, help="folder for the JSON and PNG files")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(options.threads)
    for name in options.names or BENCHMARKS:
        cases = importlib.import_module(BENCHMARKS[name]).cases(options.device)
        chosen = [case for case in cases if options.only in case.name]
        report = common.run(name, chosen, options.device, options.seconds)
        path = common.save(report, options.out)
        drawn = common.draw(report, path.with_suffix(".png"))
        print(f"  {path}{'' if drawn else ' (no chart: matplotlib is not installed)'}")


if __name__ == "__main__":
    main()
