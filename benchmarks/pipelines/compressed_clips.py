"""What compression costs: python -m benchmarks.pipelines.compressed_clips CLIPS --models NAME .. [--scale 4].

Every clip is reduced by the cubic, encoded by x264 at some qualities (and not at all), decoded and enlarged by each
model. What a model enlarges further is reduced again, as `msr video --scale` does it. PSNR of Y with 8 pixels left out
at each border, the mean over frames and clips.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pipelines.burst_quality import save
from msr import io
from msr.degradation import compress_h264, degrade_bi, to_tensor
from msr.metrics import luma, psnr, quantize
from msr.models import load_model
from msr.ops.resize import resize
from msr.pipelines.evaluate import crop_to_multiple, read_rgb
from msr.pipelines.heap import keep_freed_memory

#: Constant rate factors of x264; None: 8-bit pictures.
QUALITIES = (None, 18, 23, 28)


def enlarge(model: nn.Module | None, frames: Tensor, scale: int) -> Tensor:
    """Frames (T, 3, H, W), ``scale`` times as large, by a model or (None) the cubic."""
    if model is None:
        return resize(frames, scale=scale)
    frames = frames.to(next(model.parameters()).dtype)
    large = model(frames[None])[0] if model.kind == "video" else torch.cat([model(x[None]) for x in frames])
    large = large.float().clamp(0, 1)
    return large if model.scale == scale else resize(large, scale=scale / int(model.scale))  # type: ignore[arg-type]


def main() -> None:
    """Print a table of means over the clips."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.compressed_clips", description=__doc__)
    parser.add_argument("data", type=Path, help="folder of folders of frames")
    parser.add_argument("--models", nargs="+", required=True, help="names or weights files")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--frames", type=int, default=12, help="of each clip, its first so many")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()
    dtype = getattr(torch, options.dtype)
    models: dict[str, nn.Module | None] = {"cubic": None}
    for name in options.models:
        models[Path(name).stem] = load_model(name, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    folders = sorted(path for path in options.data.iterdir() if path.is_dir())
    with torch.inference_mode():
        for folder in folders:
            paths = io.image_files(folder)[: options.frames]
            hr = crop_to_multiple(to_tensor(np.stack([read_rgb(path) for path in paths])), options.scale)
            reduced = quantize(degrade_bi(hr, options.scale).clamp(0, 1))
            for crf in QUALITIES:
                lr = reduced if crf is None else compress_h264(reduced, crf)
                for name, model in models.items():
                    sr = quantize(enlarge(model, lr, options.scale))
                    values = [psnr(luma(a), luma(b), crop=8) for a, b in zip(sr, hr, strict=True)]
                    figures[name].setdefault(_label(crf), []).append(round(float(np.mean(values)), 3))
    print(f"x{options.scale}, {len(folders)} clips of at most {options.frames} frames, PSNR of Y, dB")
    print("| | " + " | ".join(map(_label, QUALITIES)) + " |\n" + "|---" * (len(QUALITIES) + 1) + "|")
    for name, columns in figures.items():
        print(f"| {name} | " + " | ".join(f"{np.mean(values):.2f}" for values in columns.values()) + " |")
    content = {"scale": options.scale, "dtype": options.dtype, "clips": [x.name for x in folders], "psnr_y": figures}
    save(f"compressed_clips-x{options.scale}", {"frames": options.frames, **content}, options.json)


def _label(crf: int | None) -> str:
    return "not compressed" if crf is None else f"x264, CRF {crf}"


if __name__ == "__main__":
    main()
