"""Enlarges a clip again and again and is killed each time, until a run comes through: for test_resume.

python -m pipelines.endure SOURCE TARGET MODEL KILLS SEED

torch is loaded once and every run is a fork of this process, so that a run costs what the work costs. Prints how many
runs were killed, how many frames were done after each, and how often something partial stood under the target's name.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import av
import torch

from msr.pipelines import VideoOptions, upscale_video
from msr.pipelines.job import job_folder

SEGMENT = 3


def run(source: Path, target: Path, model: str) -> int:
    """Start a run in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        upscale_video(source, target, model=model, options=VideoOptions(segment=SEGMENT, resume=True))
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def pictures(path: Path) -> list[bytes]:
    """Every frame; the files themselves differ by the identifiers that Matroska draws by chance."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def main() -> None:
    source, target, model = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    kills, moments = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    whole = target.with_name("undisturbed.mkv")
    started = time.monotonic()
    child = run(source, whole, model)
    while not job_folder(whole).exists():
        time.sleep(0.005)
    begun = time.monotonic() - started
    assert os.waitpid(child, 0)[1] == 0
    length = time.monotonic() - started
    found: list[int] = []
    early = killed = 0
    while killed < kills:
        child = run(source, target, model)
        time.sleep(moments.uniform(0.5 * begun, begun + 0.4 * (length - begun)))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if target.exists():  # it was done before it was killed: what is there must be whole; begin anew
            early += pictures(target) != pictures(whole)
            target.unlink()
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        journal = job_folder(target) / "journal.json"
        found.append(json.loads(journal.read_text())["frames"] if journal.exists() else 0)
    assert os.waitpid(run(source, target, model), 0)[1] == 0
    print(json.dumps({"killed": killed, "found": found, "partial": early}))


if __name__ == "__main__":
    main()
