"""Super-resolves the photo, the clip and the burst of this folder, and compares them with their originals.

Usage: python examples/demo.py [--out demo-out]

Leaves the results and a before/after picture of each in the folder, and prints a table. `make demo` runs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from msr import io
from msr.degradation import to_tensor
from msr.errors import MsrError
from msr.metrics import luma, psnr, quantize
from msr.ops import kernels, resize
from msr.pipelines import BurstOptions, merge_burst_files, upscale_image_files, upscale_video
from msr.pipelines.choose import choose_model
from msr.pipelines.image import Written
from msr.pipelines.report import print_table

HERE = Path(__file__).parent
COLUMNS = ["input", "output", "from", "to", "PSNR-Y", "over bicubic", "frames/s", "ops"]
ZOOM = 4  # the detail is a quarter of the picture's width, as wide as the picture itself
BAR = 24  # height of the line of text over a panel


@dataclass(frozen=True)
class Example:
    """One kind of input: its files, the frame to show, and the corner of the detail in it as a share of its sides."""

    kind: str
    source: str
    original: str
    result: str
    shown: int
    detail: tuple[float, float]


EXAMPLES = (
    Example("image", "photo.png", "photo-original.png", "photo-x4.png", 0, (0.22, 0.66)),
    Example("video", "clip.mp4", "clip-original.mp4", "clip-x4.mp4", 15, (0.6, 0.2)),
    Example("burst", "burst", "burst-original.png", "burst-x4.png", 0, (0.42, 0.52)),
)


class _Watch(TorchDispatchMode):
    """Notes which ops of msr are called, and on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "msr":
            self.seen.add((func._schema.name, args[0].device.type.upper()))
        return func(*args, **(kwargs or {}))


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """The frames of a clip, the pictures of a folder, or one picture: (H, W, 3) RGB uint8."""
    if path.suffix == ".mp4":
        with io.VideoReader(path) as clip:
            for frame in clip:
                yield frame.pixels
    else:
        for file in io.image_files(path) if path.is_dir() else [path]:
            yield io.convert_depth(io.read_image(file).pixels, "uint8")


def upscale(example: Example, target: Path, model: str | None, device: str) -> Written:
    """Run the pipeline of the example's kind from file to file."""
    source = HERE / example.source
    if example.kind == "image":
        return upscale_image_files([source], target, model=model, device=device)[0]
    if example.kind == "video":
        return upscale_video(source, target, model=model, device=device, progress=True)
    # The original is of the first frame.
    return merge_burst_files([source], target, model=model, options=BurstOptions(base="first"), device=device)


def ops_used(example: Example, model: str | None, device: str) -> str:
    """Which ops of msr the model calls, and whether a compiled kernel or the PyTorch reference serves them there."""
    chosen = choose_model((example.kind,), 4, model, device)
    x = torch.rand(1, 2, 3, 32, 32, device=chosen.device)
    with torch.inference_mode(), _Watch() as watch:
        chosen.module(x[:, 0] if example.kind == "image" else x)
    compiled = kernels()
    served: dict[str, list[str]] = {}
    for op, place in sorted(watch.seen):
        how = f"{place} {'kernel' if place in compiled[op] else 'reference'}"
        served.setdefault(how, []).append(op.removeprefix("msr::"))
    return "; ".join(f"{how}: {', '.join(ops)}" for how, ops in served.items()) or "PyTorch's own"


def panel(title: str, pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A picture with the detail marked, its title over it, and the detail enlarged under it."""
    left, top, width, height = box
    detail = pixels[top : top + height, left : left + width]
    size = (pixels.shape[1], pixels.shape[1] * height // width)
    detail = cv2.resize(detail, size, interpolation=cv2.INTER_NEAREST)
    marked = cv2.rectangle(pixels.copy(), (left, top), (left + width - 1, top + height - 1), (255, 255, 0), 1)
    bar = np.full((BAR, pixels.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (6, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, marked, detail])


def before_after(example: Example, panels: dict[str, np.ndarray]) -> np.ndarray:
    """Cubic enlargement, result and original side by side."""
    height, width = next(iter(panels.values())).shape[:2]
    left, top = int(example.detail[0] * width), int(example.detail[1] * height)
    box = (left, top, min(width // ZOOM, width - left), min(width // ZOOM * 3 // 4, height - top))
    return np.hstack([panel(title, pixels, box) for title, pixels in panels.items()])


def compare(example: Example, result: Path, picture: Path) -> tuple[float, float]:
    """Mean PSNR-Y of cubic enlargement and of the result, as read from its file; draws the picture of one frame.

    A border of 4 pixels is left out.
    """
    figures = []
    inputs = frames_of(HERE / example.source)
    files = zip(inputs, frames_of(result), frames_of(HERE / example.original), strict=example.kind == "video")
    for index, (small, large, original) in enumerate(files):
        truth = to_tensor(original)
        cubic = quantize(resize(to_tensor(small)[None], scale=4)[0])
        pair = [psnr(luma(x), luma(truth), crop=4) for x in (cubic, to_tensor(large))]
        figures.append(pair)
        if index == example.shown:
            enlarged = cubic.mul(255).round().byte().permute(1, 2, 0).numpy()
            titles = (f"bicubic {pair[0]:.2f} dB", f"msr {pair[1]:.2f} dB", "original")
            panels = dict(zip(titles, (enlarged, large, original), strict=True))
            io.write_image(picture, before_after(example, panels))
    before, after = np.mean(figures, axis=0)
    return float(before), float(after)


def run(example: Example, out: Path, model: str | None, device: str) -> list[str]:
    """Super-resolve one example; its row of the table."""
    written = upscale(example, out / example.result, model, device)
    small = next(frames_of(HERE / example.source))
    before, after = compare(example, written.path, out / f"{Path(example.result).stem}-before-after.png")
    count = f"{written.frames} x " if written.frames > 1 else ""
    kept = f"{written.frames} x " if example.kind == "video" else ""
    return [
        example.source,
        str(written.path),
        f"{count}{small.shape[1]}x{small.shape[0]}",
        f"{kept}{written.width}x{written.height}",
        f"{after:.2f} dB",
        f"{after - before:+.2f} dB",
        f"{written.frames / written.seconds:.2f}",
        ops_used(example, model, device),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the results (demo-out)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    for example in EXAMPLES:
        parser.add_argument(f"--{example.kind}-model", metavar="NAME|FILE", help=f"instead of {example.kind}-x4")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        rows = [run(e, options.out, getattr(options, f"{e.kind}_model"), options.device) for e in EXAMPLES]
    except MsrError as error:
        parser.exit(error.exit_code, f"demo: error: {error}\n")
    print_table(COLUMNS, rows)
    print(f"\nframes/s: from file to file, loading the model included. Pictures: {options.out}/*-before-after.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
