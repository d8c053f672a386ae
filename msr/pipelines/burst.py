"""Bursts: several frames of one scene to one picture."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.models import available_models
from msr.pipelines.burst_learned import MOST_FRAMES, merge_mosaics, merge_pictures
from msr.pipelines.burst_result import (
    check_alpha,
    check_result,
    in_srgb,
    save_camera_rgb,
    save_confidence,
    save_picture,
)
from msr.pipelines.burst_shots import Shots, choose_base
from msr.pipelines.burst_sources import Source, burst_files, burst_sources
from msr.pipelines.choose import Chosen, Model, choose_model, nearest_scale, resolve_device, resolve_dtype
from msr.pipelines.handheld import Merged, merge_shots, write_explanation
from msr.pipelines.image import Written, run_image
from msr.pipelines.pixels import Image, describe, pack, unpack
from msr.pipelines.progress import Report
from msr.pipelines.target import bring_to
from msr.pipelines.tiling import choose_tile


@dataclasses.dataclass(frozen=True)
class BurstOptions:
    """How a burst is merged from file to file.

    Attributes:
        method: ``"handheld"`` (no training, any scale from 1 to 4), ``"learned"`` (a network), or None: learned where
            a network ships for the frames and the scale, else handheld.
        base: the frame that the result looks like: ``"sharpest"``, ``"first"``, or its place from 0 on as the
            frames were named.
        confidence: a picture file for how much the other frames count at each place; handheld only.
        explain: an HTML page on how the frames were merged; handheld only.
    """

    method: str | None = None
    base: str | int = "sharpest"
    confidence: str | Path | None = None
    explain: str | Path | None = None


def merge_burst(
    frames: Sequence[Image],
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
) -> Image:
    """Merge the frames of a burst to one enlarged picture of what the first frame shows, by a network.

    Source: the fusion of ``msr.models.burst``; the order of the frames after the first does not matter.

    Args:
        frames: one or more pictures as for ``upscale_image``, all of one size, dtype and number of channels;
            the first is the base.
        scale: enlargement factor; None: the model's, or 4.
        model: None for ``burst-x{scale}-real``, a name, a weights file or a loaded module.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the
            device has instructions for it, else float32.
        tile: side of the tiles in LR pixels, at least 32; None or 0: by the size of the memory.

    Returns:
        One picture of the frames' type, dtype and channels; its alpha is the base frame's.

    Raises:
        InputError: no frames, frames of different sizes, or a model, device or tile that does not fit.

    Example:
        >>> import numpy as np
        >>> merge_burst([np.zeros((24, 32, 3), np.uint8)] * 4).shape    # doctest: +SKIP
        (96, 128, 3)
    """
    names = [f"frame {index}" for index in range(len(frames))]
    chosen = choose_model(("burst",), scale, model, device, dtype)
    merged, alpha = merge_pictures(frames, names, chosen, tile)
    return pack(merged, alpha, describe(frames[0], names[0]), chosen.phase)


def merge_burst_files(
    sources: Sequence[str | Path],
    target: str | Path,
    scale: float | None = None,
    model: Model | None = None,
    *,
    options: BurstOptions | None = None,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    progress: Report | None = None,
) -> Written:
    """Merge a burst of picture or RAW files, or the first frames of a clip, to one picture file.

    RAW frames are merged on their mosaic, before demosaicking, unless a network for pictures is asked for. EXIF, colour
    profile, white balance and transparency are those of the base frame.

    Args:
        sources: files, one folder of them (natural order), or one clip; see ``burst_sources``.
        target: the file to write: a picture, OpenEXR (linear light), or DNG (linear camera RGB, of RAW frames).
        scale: enlargement; None: 4 where a network ships for that, or the model's, else 2.
        model: for the learned method: a name, a weights file or a loaded module; None: the one that ships.
        options: how the frames are merged.
        device: as for ``merge_burst``.
        dtype: likewise.
        tile: likewise, for the learned method.
        progress: hears of each frame, and what the user should know; None: nothing does.

    Returns:
        What was written.

    Raises:
        InputError: see ``merge_burst``; also a source that cannot be read or a target that cannot be written.
        WorkError: writing failed.

    Example:
        >>> merge_burst_files(["shots"], "merged.png", 2)    # doctest: +SKIP
    """
    started = time.perf_counter()
    target, wanted = Path(target), options or BurstOptions()
    with progress or Report() as report:
        files = burst_files(sources)
        _check_outputs(target, wanted, files)
        frames = _on_the_mosaic(burst_sources(files, report.note), report)
        plan = _plan(frames, target, scale, model, wanted, device, dtype)
        choose_tile(tile, plan.device)
        size = check_result(target, frames[0].size, plan.factor, plan.raw)
        if len(frames) == 1:
            report.note(f"{frames[0].name} is the only frame: it is enlarged as a single picture")
        if plan.chosen is None:
            _merge_handheld(frames, target, plan, wanted, report)
        elif plan.chosen.kind == "image":
            _enlarge_single(frames[0], target, plan.chosen, size, tile, report)
        else:
            _merge_learned(frames, target, plan.chosen, wanted, tile, report)
    return Written(target, *size, len(frames), time.perf_counter() - started)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """``chosen`` is the network, None for the method without one; ``raw``: the result is linear camera RGB."""

    factor: float
    chosen: Chosen | None
    raw: bool
    device: torch.device


def _plan(
    frames: Sequence[Source],
    target: Path,
    scale: float | None,
    model: Model | None,
    wanted: BurstOptions,
    device: str,
    dtype: str,
) -> _Plan:
    raw = frames[0].load_raw is not None
    if scale is not None and (isinstance(scale, bool) or not math.isfinite(scale) or scale < 1):
        raise InputError(f"scale must be a number from 1, got {scale!r}")
    if wanted.method not in (None, "handheld", "learned"):
        raise InputError(f"method must be handheld or learned, got {wanted.method!r}")
    if wanted.method == "handheld" and model is not None:
        raise InputError("a model is for the method learned; handheld has none")
    whole = int(scale) if scale is not None and float(scale).is_integer() else None
    kinds = ("burst-raw", "burst") if raw else ("burst",)
    extra = wanted.confidence is not None or wanted.explain is not None
    if wanted.method is None and model is None and len(frames) == 1 and target.suffix.lower() != ".dng" and not extra:
        factor = 4.0 if scale is None else float(scale)
        chosen = choose_model(("image",), nearest_scale("image", factor), None, device, dtype)
        return _Plan(factor, chosen, False, chosen.device)
    shipped = {card.scale for card in available_models() if card.kind == kinds[0]}
    fits = not extra and (scale is None or whole is not None) and (whole or 4) in shipped
    if wanted.method == "learned" or model is not None or (wanted.method is None and fits):
        if extra:
            raise InputError("weights and the page on them come of the method handheld; the method learned has none")
        if scale is not None and whole is None:
            raise InputError(
                f"a network enlarges by a whole number, not {scale:g}; the method handheld by any from 1 to 4"
            )
        chosen = choose_model(kinds, whole, model, device, dtype)
        return _Plan(float(chosen.scale), chosen, chosen.kind == "burst-raw", chosen.device)
    if scale is not None and scale > 4:
        raise InputError(f"the method handheld enlarges 1 to 4 times, not {scale:g}")
    place = resolve_device(device)
    resolve_dtype(dtype, place)
    return _Plan(2.0 if scale is None else float(scale), None, raw, place)


def _check_outputs(target: Path, wanted: BurstOptions, sources: list[Path]) -> None:
    inputs = list(sources)
    for path in (target, wanted.confidence, wanted.explain):
        if path is None:
            continue
        path = Path(path)
        io.check_output(path, inputs)
        if path.is_dir():
            raise InputError(f"{path} is a folder; a file name is expected")
        if path in inputs:
            raise InputError(f"{path} is named for two outputs")
        inputs.append(path)
    if wanted.confidence is not None:
        io.check_format(Path(wanted.confidence), (1, 1))
    if wanted.explain is not None and Path(wanted.explain).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{wanted.explain} will be a page: its name must end in .html")


def _on_the_mosaic(frames: list[Source], report: Report) -> list[Source]:
    """RAW frames without a Bayer mosaic are developed one by one, as pictures."""
    load = frames[0].load_raw
    if load is not None:
        try:
            first = load()
        except io.NoMosaicError as error:
            report.note(f"{error}; the frames are developed before they are merged")
            return [dataclasses.replace(frame, load_raw=None) for frame in frames]
        return [dataclasses.replace(frames[0], load_raw=lambda: first), *frames[1:]]
    return frames


def _enlarge_single(
    frame: Source, target: Path, chosen: Chosen, size: tuple[int, int], tile: int | None, report: Report
) -> None:
    picture = frame.load()
    check_alpha(target, picture)
    rgb, _ = unpack(picture.pixels, describe(picture.pixels, frame.name), frame.name)
    large = run_image(rgb[0], chosen, tile, frame.name)
    assert isinstance(large, Tensor)
    save_picture(target, bring_to(large[None], size, chosen.phase), picture, frame.name, report.note, chosen.phase)


def _merge_learned(
    frames: Sequence[Source], target: Path, chosen: Chosen, wanted: BurstOptions, tile: int | None, report: Report
) -> None:
    if len(frames) > MOST_FRAMES:
        report.note(f"{len(frames)} frames: the first {MOST_FRAMES} are used, which is what the network takes")
        frames = frames[:MOST_FRAMES]
    report.begin("reading", len(frames), 0)
    raw = chosen.kind == "burst-raw"
    shots = Shots(frames, torch.device("cpu"), raw)
    check_alpha(target, shots.read(0))
    loaded: list[io.Picture | io.RawFrame] = []
    for index in range(len(frames)):
        loaded.append(shots.read(index))
        report.advance()
    base = choose_base(wanted.base, frames, lambda index: shots.shot(index, loaded[index]))
    order = [base, *(index for index in range(len(frames)) if index != base)]
    first = loaded[base]
    if isinstance(first, io.RawFrame):
        merged = merge_mosaics([loaded[index] for index in order], chosen, tile, report.note)  # type: ignore[misc]
        save_camera_rgb(target, merged, first)
    else:
        pictures = [loaded[index].pixels for index in order]  # type: ignore[union-attr]
        merged, _ = merge_pictures(pictures, [frames[index].name for index in order], chosen, tile, report.note)
        save_picture(target, merged, first, frames[base].name, report.note, chosen.phase)


def _merge_handheld(frames: Sequence[Source], target: Path, plan: _Plan, wanted: BurstOptions, report: Report) -> None:
    shots = Shots(frames, plan.device, plan.raw)
    check_alpha(target, shots.read(0))
    base = choose_base(wanted.base, frames, shots.load)
    report.begin("merging", len(frames), 0)
    merged: Merged = merge_shots(
        [lambda index=index: shots.load(index) for index in range(len(frames))],  # type: ignore[misc]
        plan.factor,
        base=base,
        advance=report.advance,
    )
    first = shots.read(base)
    if isinstance(first, io.RawFrame):
        save_camera_rgb(target, merged.image, first)
    else:
        save_picture(target, merged.image, first, frames[base].name, report.note)
    unused = [frames[use.index].name for use in merged.frames if not use.used]
    if unused:
        more = ", .." if len(unused) > 5 else ""
        report.note(f"{len(unused)} of {len(frames)} frames give nothing: {', '.join(unused[:5])}{more}")
    if wanted.confidence is not None:
        save_confidence(Path(wanted.confidence), merged.weight, len(frames) - 1, first)
    if wanted.explain is not None:
        names = [frame.name for frame in frames]
        show = in_srgb(first)
        write_explanation(Path(wanted.explain), merged, shots.shot(base, first), plan.factor, names, show)
