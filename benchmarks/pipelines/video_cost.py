"""Wall time of `msr video` against the network's own: python -m benchmarks.pipelines.video_cost CLIP [--frames N].

The clip is enlarged by the command, in a process of its own: loading, decoding, conversion, the network, encoding and
joining. The network's own time is that of its steps over the same frames as tensors, in another process, after one step
to warm up. The two take turns; medians are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import about
from msr import io
from msr.pipelines.choose import choose_model
from msr.pipelines.yuv import to_rgb

#: What the whole may take of the network's own time, by the kind of device.
LIMITS = {"cpu": 1.10, "cuda": 1.25}


def frames_of(clip: Path, count: int) -> list[torch.Tensor]:
    """The first frames of a clip as the network gets them."""
    frames = []
    with io.open_clip(clip) as reader:
        for frame in reader:
            frames.append(to_rgb([torch.from_numpy(plane) for plane in frame.planes], frame.format))
            if len(frames) == count:
                break
    return frames


def network_seconds(clip: Path, count: int, model: str, device: str) -> float:
    """The child: the network's steps alone."""
    chosen = choose_model(("video", "image"), None, model, device)
    frames = [chosen.place(frame) for frame in frames_of(clip, count)]
    state = None

    def step(index: int) -> None:
        nonlocal state
        if chosen.kind == "image":
            chosen.module(frames[index])
            return
        module: Any = chosen.module
        ahead = max(module.lookahead, module.warm_up if state is None else 0)
        future = torch.stack(frames[index + 1 : index + 1 + ahead] or frames[index:], dim=1)
        _, state = module.step(frames[index], future, state)

    with torch.inference_mode():
        step(0)
        state = None
        _wait(chosen.device)
        started = time.perf_counter()
        for index in range(len(frames)):
            step(index)
        _wait(chosen.device)
        return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def command_seconds(clip: Path, count: int, model: str, device: str, folder: Path) -> float:
    """The command from start to end."""
    with io.open_clip(clip) as reader:
        rate = reader.format.rate
    # The end lies between two frames, wherever rounding puts it.
    duration = float((Fraction(count) - Fraction(1, 2)) / rate)
    command = [sys.executable, "-m", "msr", "video", str(clip), "-o", str(folder / "large.mp4"), "--model", model]
    started = time.perf_counter()
    subprocess.run([*command, "--device", device, "--duration", f"{duration:.6f}", "--quiet"], check=True)
    seconds = time.perf_counter() - started
    with io.open_clip(folder / "large.mp4") as reader:
        written = sum(1 for _ in reader)
    if written != count:
        raise SystemExit(f"{count} frames were wanted, {written} came out")
    return seconds


def main() -> None:
    """Measure, print, and fail where the whole takes too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.video_cost", description=__doc__)
    parser.add_argument("clip", type=Path, help="a real clip, for example of 640x360; at an even frame rate")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="video-x4")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    given = options.clip, options.frames, options.model, options.device
    if options.child:
        print(network_seconds(*given))
        return
    alone, whole = [], []
    child = [sys.executable, "-m", "benchmarks.pipelines.video_cost", str(options.clip), "--child"]
    child += ["--frames", str(options.frames), "--model", options.model, "--device", options.device]
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.rounds):
            alone.append(float(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout))
            whole.append(command_seconds(*given, Path(name)))
            print(f"network {alone[-1]:.2f} s, msr video {whole[-1]:.2f} s, ratio {whole[-1] / alone[-1]:.3f}")
    ratio = statistics.median(whole) / statistics.median(alone)
    limit = LIMITS[options.device.split(":")[0]]
    where = about(torch.device(options.device))
    print(f"{options.model}, {options.frames} frames of {options.clip.name}")
    print(f"{where['device']}, {where['threads']} threads")
    print(f"ratio of the medians {ratio:.3f}, limit {limit}")
    if options.json:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        report = {"date": when, "model": options.model, "frames": options.frames, "network_s": alone, "video_s": whole}
        options.json.write_text(json.dumps({**report, "ratio": ratio, "about": where}, indent=2) + "\n")
    if ratio > limit:
        raise SystemExit("the pipeline costs more than it may")


if __name__ == "__main__":
    main()
