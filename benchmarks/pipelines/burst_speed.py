"""Time and memory of `msr burst` on 8 RAW files of 12 megapixels: python -m benchmarks.pipelines.burst_speed PHOTO.

The files are made of a photo: a burst simulated at 2000x1500 pixels, laid four times into each frame. LibRaw developing
the 8 files and `msr burst --scale 2` on them take turns, each in a process of its own; medians are compared, and the
peak resident memory of msr.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from benchmarks.pipelines.burst_quality import save
from msr import io
from msr.burst_simulation import simulate_raw_burst
from msr.pipelines.burst_protocol import raw_frames
from msr.pipelines.evaluate import read_rgb

#: What msr may take of LibRaw's time; and of memory: so many times the output as float32, and a gigabyte.
TIME_LIMIT, MEMORY_LIMIT, MEMORY_BASE = 3.0, 12, 10**9
#: LibRaw alone, with what `msr.io.read_raw` asks of it: nothing of msr or torch is loaded.
DEVELOP = """
import sys, rawpy
for path in sys.argv[1:]:
    with rawpy.imread(path) as raw:
        raw.postprocess(use_camera_wb=True, no_auto_bright=True, adjust_maximum_thr=0.0, output_bps=16)
"""


def make_frames(photo: Path, folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """RAW files of (width, height), both multiples of 4."""
    half = (size[0] // 2, size[1] // 2)
    scene = cv2.resize(read_rgb(photo), half, interpolation=cv2.INTER_CUBIC)
    burst = simulate_raw_burst(scene, count, 1, np.random.default_rng(0))
    paths = []
    for index, frame in enumerate(raw_frames(burst)):
        paths.append(folder / f"{index}.dng")
        io.write_dng(paths[-1], replace(frame, mosaic=np.tile(frame.mosaic, (2, 2))))
    return paths


def child(command: list[str]) -> tuple[float, int]:
    """Wall time of a command in seconds, and its peak resident memory in bytes."""
    measure = (
        "import json, resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([time.perf_counter() - started, peak]))\n"
    )
    done = subprocess.run([sys.executable, "-c", measure, *command], check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure, print, and fail where the limits are passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.burst_speed", description=__doc__)
    parser.add_argument("photo", type=Path, help="what the frames are made of")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", nargs=2, type=int, default=[4000, 3000], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=1, help="how often each is run (1)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"LibRaw": [], "msr": []}
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        paths = [str(path) for path in make_frames(options.photo, Path(name), options.frames, options.size)]
        commands = {
            "LibRaw": [sys.executable, "-c", DEVELOP, *paths],
            "msr": [sys.executable, "-m", "msr", "burst", *paths, "-o", f"{name}/out.tif", "--scale", "2", "-q"],
        }
        for _ in range(options.rounds):
            for who, command in commands.items():
                seconds, peak = child(command)
                times[who].append(seconds)
                if who == "msr":
                    peaks.append(peak)
    libraw, own = (statistics.median(times[who]) for who in ("LibRaw", "msr"))
    output = 4 * options.size[0] * options.size[1] * 3 * 4
    allowed = MEMORY_LIMIT * output + MEMORY_BASE
    print(f"{options.frames} frames of {options.size[0]}x{options.size[1]} to x2")
    print(f"LibRaw develops them in {libraw:.1f} s; msr burst {own:.1f} s: x{own / libraw:.2f}, limit {TIME_LIMIT}")
    print(f"peak {max(peaks) / 1e9:.2f} GB, limit {allowed / 1e9:.2f} GB")
    figures = {"seconds": times, "ratio": own / libraw, "peak_bytes": max(peaks), "allowed_bytes": allowed}
    save("burst_speed", {"frames": options.frames, "size": options.size, **figures}, options.json)
    if own > TIME_LIMIT * libraw or max(peaks) > allowed:
        raise SystemExit("slower or larger than allowed")


if __name__ == "__main__":
    main()
