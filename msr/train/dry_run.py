"""What a training run would cost, before it begins."""

from __future__ import annotations

import functools
import math
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import msr.ops  # noqa: F401  (registers the ops that are counted below)
from msr.models import build_model
from msr.pipelines.published import list_clips
from msr.train.config import Config, load_config
from msr.train.data import list_photos
from msr.train.trainer import Trainer

#: The frame for which operations are counted: what papers on video state them for.
HEIGHT, WIDTH = 180, 320


def _by_output(weight: Sequence[int], out_shape: Sequence[int]) -> int:
    """A convolution: each value that comes out sums over its kernel. Twice the multiplications, as torch counts."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


# From the shapes of the arguments of each op of ours; torch knows its own.
_COUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.msr.deform_conv2d: lambda x, offset, w, *_, out_shape: _by_output(w, out_shape),
    torch.ops.msr.flow_guided_deform_conv2d: lambda x, head, flows, w, *_, out_shape: _by_output(w, out_shape),
    torch.ops.msr.conv_pixel_shuffle: lambda x, w, *_, out_shape: _by_output(w, out_shape),
    torch.ops.msr.conv_transpose2d: lambda x, w, *_, out_shape: 2 * math.prod(x) * math.prod(w[1:]),
    torch.ops.msr.correlation: lambda a, *_, out_shape: 2 * math.prod(out_shape) * a[1],
}


def dry_run(config: Path) -> list[list[str]]:
    """Parameters, operations, memory and time of a training run, and whether its data serve; writes nothing.

    One step is made to warm up and one is timed, at each stage.

    Args:
        config: the TOML file (see `msr.train.config`).

    Returns:
        Rows of a name and what is to be said of it.

    Raises:
        InputError: the configuration or its data cannot be used.

    Example:
        >>> dry_run(Path("image.toml"))[0]    # doctest: +SKIP
        ['model', 'image x4, 475,280 parameters']
    """
    settings = load_config(config)
    trainer = Trainer(settings)
    count = sum(p.numel() for p in trainer.model.parameters())
    rows = [["model", f"{settings.kind} x{trainer.model.scale}, {count:,} parameters"]]
    if settings.train.init:
        rows.append(["taken over", f"{len(trainer.taken)} of {len(trainer.model.state_dict())} tensors"])
    of_what = f"a burst of {settings.train.frames}" if settings.kind.startswith("burst") else "a frame"
    operations = multiplications(settings.kind, settings.model, settings.train.frames) / 1e9
    rows.append(
        ["operations", f"{operations:.2f} GMACs for {of_what} of {WIDTH}x{HEIGHT} (convolutions, correlations)"]
    )
    rows.append(["precision", "bfloat16 where it serves, else float32" if trainer.bf16 else "float32"])
    rows += [["data", line] for line in _data(settings)]
    total = 0.0
    starts = [0, *(math.ceil(share * settings.train.steps) for share, *_ in settings.train.stages)]
    for start, end in zip(starts, [*starts[1:], settings.train.steps], strict=True):
        trainer.step = start
        trainer.enter_stage()
        making, training = _timed_step(trainer)
        stage = trainer.stage.train
        size = f"{stage.batch} of {stage.patch}x{stage.patch}" + f", {stage.frames} frames" * (settings.kind != "image")
        waiting = max(0.0, 1.0 - training / max(making, training))
        rows.append(["a step", f"{training:.3f} s for {size}; {making:.3f} s to make its data: waiting {waiting:.0%}"])
        total += max(making, training) * (end - start)
    rows.append(["memory", f"{_megabytes(5 * 4 * count)} for weights, gradients, Adam and average; {_peak(trainer)}"])
    limit = 60.0 * settings.train.minutes
    said = f"{_duration(total)} for {settings.train.steps:,} steps, from one step"
    if 0.0 < limit < total:
        said = (
            f"{_duration(limit)}, the limit in minutes, for about {int(limit / total * settings.train.steps):,} steps"
        )
    return [*rows, ["time", said]]


def multiplications(kind: str, arguments: dict[str, Any], frames: int = 1) -> int:
    """Multiplications with additions (MACs) of a model for one frame of 320x180, or for one burst of such frames.

    Counted are convolutions, transposed and deformable ones too, and correlations. Nothing is computed.

    Args:
        kind: of the model.
        arguments: those of its class.
        frames: of a burst.

    Example:
        >>> multiplications("image", {"channels": 8, "blocks": 1, "scale": 2}) // 10**6
        161
    """
    with FakeTensorMode():  # shapes alone; not the device "meta", for which torch knows no autocast
        model = build_model(kind, arguments).eval()
        inputs: list[Any] = [torch.empty(1, 3, HEIGHT, WIDTH)]
        run: Any = model
        times = 1
        if kind == "video":
            # From the second frame of a stream on all cost the same, or as many together as one pass back serves.
            times = int(model.period)  # type: ignore[arg-type]
            inputs.append(torch.empty(1, int(model.lookahead), 3, HEIGHT, WIDTH))  # type: ignore[arg-type]
            with torch.inference_mode():
                run = functools.partial(_stream, model, model.step(*inputs)[1], times)  # type: ignore[operator]
        elif kind.startswith("burst"):
            inputs = [torch.empty(1, frames, 7 if kind == "burst-raw" else 3, HEIGHT, WIDTH)]
            if kind == "burst-raw":  # it is given the motion
                inputs.append(torch.empty(1, frames - 1, 2, HEIGHT, WIDTH))
        with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
            run(*inputs)
    return counter.get_total_flops() // 2 // times


def _stream(model: Any, state: Any, times: int, frame: Tensor, future: Tensor) -> None:
    """So many steps of a stream."""
    for _ in range(times):
        _, state = model.step(frame, future, state)


def _timed_step(trainer: Trainer) -> tuple[float, float]:
    """Seconds to make a batch and to train on it, each the second time; per batch where several are made at once."""
    making = training = 0.0
    for turn in range(2):
        rng = np.random.default_rng((trainer.config.train.seed, turn))
        start = time.perf_counter()
        made = [trainer.task.sample(rng) for _ in range(trainer.task.period)]
        making = (time.perf_counter() - start) / trainer.task.period
        start = time.perf_counter()
        trainer.update(made[0])
        training = time.perf_counter() - start
    return making, training


def _data(settings: Config) -> list[str]:
    """How much there is in the folders."""
    data, lines = settings.data, []
    if data.photos:
        lines.append(f"{len(list_photos(Path(data.photos))):,} photos in {data.photos}")
    if data.clips:
        lines.append(f"clips in {data.clips}")
    if data.validation:
        of = list_clips if settings.kind == "video" else list_photos
        lines.append(f"{len(of(Path(data.validation))):,} originals for validation in {data.validation}")
    return lines


def _peak(trainer: Trainer) -> str:
    if trainer.device.type == "cuda":
        return f"{_megabytes(torch.cuda.max_memory_allocated(trainer.device))} on the GPU at the peak of a step"
    return f"{_megabytes(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)} for the process at its peak"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
