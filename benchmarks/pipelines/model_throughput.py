"""Operations a second of the models that ship: python -m benchmarks.pipelines.model_throughput [NAME ..].

In one run, in turns, in channels_last, in bfloat16 where the processor multiplies it and else in float32 (--dtype): a
frame of 320x180 through each model (a step of a stream; a burst of four), and eight plain 3x3 convolutions of the
model's width, each with a ReLU, over features of that size. Compared are multiplications with additions a second. The
models' are counted as `msr train --dry-run` does: convolutions and correlations, so that what goes pixel by pixel
(resizing, warping, attention, doubt) costs time and counts for nothing.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

import msr
from benchmarks.common import RESULTS, about
from msr.models import available_models, load_model
from msr.pipelines.choose import resolve_dtype
from msr.pipelines.heap import keep_freed_memory
from msr.train.dry_run import HEIGHT, WIDTH, multiplications

#: The share of the plain convolutions' rate that is asked of each model.
WANTED = 0.6

_BURST = 4
_CONVOLUTIONS = 8


def built_from(name: str) -> dict[str, Any]:
    """The arguments of the model's class, as its weights file has them."""
    path = Path(msr.__file__).parent / "weights" / f"{name}.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        arguments: dict[str, Any] = json.loads(file.metadata()["msr"])["arguments"]
    return arguments


def step(model: Any) -> Callable[[], object]:
    """One picture or one burst through a model, or as many frames of a stream as one look ahead serves."""
    if model.kind == "image":
        picture = torch.rand(1, 3, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
        return lambda: model(picture)
    if model.kind == "video":
        frame = torch.rand(1, 3, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
        future = torch.rand(1, model.lookahead, 3, HEIGHT, WIDTH)
        _, start = model.step(frame, future)

        def stream() -> None:
            state = start
            for _ in range(model.period):
                _, state = model.step(frame, future, state)

        return stream
    if model.kind == "burst-raw":
        frames, flows = torch.rand(1, _BURST, 7, HEIGHT, WIDTH), torch.rand(1, _BURST - 1, 2, HEIGHT, WIDTH)
        return lambda: model(frames, flows)
    burst = torch.rand(1, _BURST, 3, HEIGHT, WIDTH)
    return lambda: model(burst)


def convolutions(width: int, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """Plain 3x3 convolutions with ReLU, and their operations."""
    layers = [layer for _ in range(_CONVOLUTIONS) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True))]
    stack = nn.Sequential(*layers).to(dtype, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    x = torch.rand(1, width, HEIGHT, WIDTH).to(dtype, memory_format=torch.channels_last)
    return lambda: stack(x), _CONVOLUTIONS * 9 * width * width * HEIGHT * WIDTH


def seconds_in_turns(candidates: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, after one call to warm up."""
    taken: list[list[float]] = [[] for _ in candidates]
    for number in range(rounds + 1):
        for times, candidate in zip(taken, candidates, strict=True):
            start = time.perf_counter()
            candidate()
            if number:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def where_time_goes(run: Callable[[], object]) -> str:
    """The ops that take most of the time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40)


def measure(name: str, kind: str, dtype: torch.dtype, rounds: int, profile: bool) -> tuple[dict[str, Any], str]:
    """The figures of one model, and where its time goes if that is asked for."""
    keep_freed_memory()  # as the msr command does
    model: Any = load_model(name, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    counted = multiplications(kind, built_from(name), _BURST)
    with torch.inference_mode():
        run = step(model)
        plain, plain_counted = convolutions(model.trunk.last.out_channels, dtype)
        taken, plain_taken = seconds_in_turns([run, plain], rounds)
        shown = where_time_goes(run) if profile else ""
    taken /= getattr(model, "period", 1)
    rate, plain_rate = counted / taken / 1e9, plain_counted / plain_taken / 1e9
    row = {"model": name, "gmacs": counted / 1e9, "ms": 1e3 * taken, "gmacs_per_s": rate}
    return {**row, "plain_gmacs_per_s": plain_rate, "share": rate / plain_rate}, shown


def main() -> None:
    """Measure and print, and say which models are below what is wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipelines.model_throughput", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models (default: all that ship)")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (auto)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="print which ops take the time, too")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    dtype = resolve_dtype(options.dtype, torch.device("cpu"))
    where = about(torch.device("cpu")) | {"dtype": str(dtype).removeprefix("torch.")}
    print(f"{where['device']}, {where['threads']} threads, {where['dtype']}, channels_last, {WIDTH}x{HEIGHT}")
    print(f"{'model':<20}{'GMACs':>8}{'ms':>9}{'GMAC/s':>9}{'plain GMAC/s':>14}{'share':>8}")
    rows = []
    for card in available_models():
        if options.names and card.name not in options.names:
            continue
        # In a process of its own, as in use: the memory that another left behind can cost a tenth.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            job = process.submit(measure, card.name, card.kind, dtype, options.rounds, options.profile)
            row, shown = job.result()
        rows.append(row)
        numbers = f"{row['gmacs']:>8.2f}{row['ms']:>9.1f}{row['gmacs_per_s']:>9.1f}{row['plain_gmacs_per_s']:>14.1f}"
        share = f"{row['share']:>8.0%}{'' if row['share'] >= WANTED else '  below'}"
        print(f"{card.name:<20}{numbers}{share}\n{shown}", end="", flush=True)
    path = (
        options.json
        or RESULTS / f"model_throughput-{'-'.join(str(where['device']).lower().split())}-{where['date']}.json"
    )
    path.write_text(json.dumps({"wanted": WANTED, "rows": rows, "about": where}, indent=1) + "\n")
    print(f"asked: {WANTED:.0%} each; {path}")


if __name__ == "__main__":
    main()
