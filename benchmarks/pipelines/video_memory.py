"""Peak memory of `msr video` for a short and a long clip: python -m benchmarks.pipelines.video_memory [--model NAME].

Each clip is made on the spot and enlarged by a process of its own, whose peak resident memory the system counts. The
memory is constant when the two peaks agree.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import torch

import msr
from msr.models import build_model, save_model
from msr.pipelines.heap import keep_freed_memory

#: The long clip may need this much more than the short one.
LIMIT = 1.05


def make_clip(path: Path, frames: int, width: int, height: int) -> None:
    """A random texture that wanders, at 25 frames a second."""
    texture = np.random.default_rng(0).integers(0, 256, (height // 2 + 64, width // 2 + 64, 3), np.uint8)
    texture = texture.repeat(2, 0).repeat(2, 1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "23", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            y, x = int(60 + 60 * np.sin(index / 40)), int(60 + 60 * np.cos(index / 30))
            frame = np.ascontiguousarray(texture[y : y + height, x : x + width])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def enlarge(source: Path, target: Path, model: str) -> None:
    """The child: enlarge one clip and print what it took."""
    keep_freed_memory()  # as the msr command does
    started = time.perf_counter()
    written = msr.upscale_video(source, target, model=model)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"frames": written.frames, "peak_bytes": peak, "frames_per_second": written.frames / seconds}))


def measure(frames: int, model: str, size: tuple[int, int], folder: Path) -> dict[str, float]:
    """Enlarge a made clip in a process of its own."""
    source, target = folder / f"{frames}.mp4", folder / f"{frames}-large.mp4"
    make_clip(source, frames, *size)
    command = [sys.executable, "-m", "benchmarks.pipelines.video_memory", "--child", str(source), str(target)]
    done = subprocess.run([*command, "--model", model], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    if result["frames"] != frames:
        raise SystemExit(f"{frames} frames went in, {result['frames']} came out")
    return result


def main() -> None:
    """Measure, print, and fail where the memory grows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.video_memory", description=__doc__)
    parser.add_argument("--model", default="video-x4", help="a name or a weights file; 'small': untrained, 8 channels")
    parser.add_argument("--frames", nargs=2, type=int, default=[300, 10_000], metavar=("SHORT", "LONG"))
    parser.add_argument("--size", nargs=2, type=int, default=[160, 90], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        source, target = options.child
        enlarge(source, target, options.model)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), options.model
        if model == "small":
            arguments = {"channels": 8, "blocks": 1}
            save_model(build_model("video", arguments), "video", arguments, folder / "small.safetensors")
            model = str(folder / "small.safetensors")
        runs = [measure(frames, model, tuple(options.size), folder) for frames in options.frames]
    width, height = options.size
    print(f"{options.model}, {width}x{height} to {4 * width}x{4 * height}, {torch.get_num_threads()} threads")
    for run in runs:
        speed = f"{run['frames_per_second']:.2f} frames/s"
        print(f"{run['frames']:6d} frames: peak {run['peak_bytes'] / 2**20:.0f} MiB, {speed}")
    ratio = runs[1]["peak_bytes"] / runs[0]["peak_bytes"]
    print(f"ratio {ratio:.3f}, limit {LIMIT}")
    if options.json:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        report = {"date": when, "torch": torch.__version__, "model": options.model, "runs": runs, "ratio": ratio}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if ratio > LIMIT:
        raise SystemExit("memory grows with the length of the clip")


if __name__ == "__main__":
    main()
