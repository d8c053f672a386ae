"""What a clip keeps when it is enlarged: python -m benchmarks.pipelines.fidelity [--clips NAME ...].

Every kind of clip of tests/clips.py is made on the spot, enlarged twice by `msr video` and by `ffmpeg -vf scale` (where
there is an ffmpeg), and audited by `msr verify`. The network is a small untrained one: what is looked at is all but the
pictures' detail.
"""

import argparse
import collections
import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import msr
from msr.io import Finding, audit
from msr.models import build_model, save_model

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
clips = importlib.import_module("clips")


def by_msr(source: Path, target: Path, model: Path) -> None:
    """Enlarge with msr."""
    msr.upscale_video(source, target, model=str(model))


def by_ffmpeg(source: Path, target: Path, model: Path) -> None:
    """Enlarge as everyone does, the other streams copied."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-i",
        str(source),
        "-map",
        "0",
        "-vf",
        "scale=2*iw:2*ih",
        "-c:a",
        "copy",
        "-c:s",
        "copy",
    ]
    subprocess.run([*command, str(target)], check=True, capture_output=True)


def findings(name: str, source: Path, target: Path, model: Path) -> list[Finding]:
    """Enlarge with one tool and audit; a tool that fails has lost the whole clip."""
    try:
        {"msr video": by_msr, "ffmpeg -vf scale": by_ffmpeg}[name](source, target, model)
    except (subprocess.CalledProcessError, msr.errors.MsrError) as error:
        return [Finding("the clip", "there", f"{name} failed: {error}", "lost")]
    return [finding for finding in audit(source, target) if finding.what != "size"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.fidelity")
    parser.add_argument(
        "--clips", nargs="*", default=list(clips.MATRIX), metavar="NAME", help="only these kinds of clips"
    )
    options = parser.parse_args()
    tools = ["msr video", *(["ffmpeg -vf scale"] if shutil.which("ffmpeg") else [])]
    counts = {tool: collections.Counter[str]() for tool in tools}
    print(f"| clip | {' | '.join(tools)} |\n|---|{'---|' * len(tools)}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        torch.manual_seed(0)
        arguments = {"scale": 2, "channels": 8, "blocks": 1}
        save_model(build_model("image", arguments), "image", arguments, model)
        for clip in options.clips:
            source = clips.make(Path(folder), clip)
            cells = []
            for number, tool in enumerate(tools):
                found = findings(tool, source, source.with_name(f"{clip}-{number}{source.suffix}"), model)
                counts[tool].update(finding.verdict for finding in found)
                wrong = [f"{f.what} {f.verdict}" for f in found if f.verdict != "kept"]
                cells.append("; ".join(wrong) or "all kept")
            print(f"| {clip} | {' | '.join(cells)} |", flush=True)
    for tool, count in counts.items():
        print(f"{tool}: {count['kept']} kept, {count['changed']} changed, {count['lost']} lost")


if __name__ == "__main__":
    main()
