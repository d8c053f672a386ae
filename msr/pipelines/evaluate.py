"""Evaluation by a named protocol: originals in, a table of figures out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msr.degradation import BURST_NOISE, PHASES, burst_from_photo, degrade, to_tensor
from msr.errors import InputError
from msr.io.frames import image_files
from msr.io.image import convert_depth, read_image
from msr.metrics import luma, quantize
from msr.models import at_phase
from msr.ops.resize import resize
from msr.pipelines.burst_protocol import handheld, learned, protocol_burst, raw_figures, single_frame
from msr.pipelines.choose import choose_model
from msr.pipelines.figures import (
    SMALLEST,
    Perceptual,
    Table,
    TableMaker,
    in_8_bits,
    load_lpips,
    mean_known,
    measure,
)
from msr.pipelines.protocols import PROTOCOLS, Protocol
from msr.pipelines.published import clips_for, list_clips, results_for
from msr.pipelines.shift import GlobalShift
from msr.pipelines.steadiness import Steadiness

BURST_COUNTS = (1, 2, 4, 8)
RAW_COUNT = 15
#: Pixels of a frame a side, the least that LibRaw takes.
RAW_SIDE = 22

#: Results that surely lie further than this off the original, in its pixels, are of another phase: their figures mean
#: nothing.
LARGEST_SHIFT = 0.5


@dataclass(frozen=True)
class _Setting:
    protocol: Protocol
    models: list[tuple[str, nn.Module]]
    results: list[Path]
    scale: int
    crop: int
    device: torch.device
    limit: int | None
    perceptual: Perceptual | None


#: Name of an original, name of a method, its figures.
_Row = tuple[str, str, list[float]]


def read_rgb(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, gray repeated, alpha left out."""
    pixels = convert_depth(read_image(path).pixels, "uint8")
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3])


def crop_to_multiple(x: Tensor, scale: int) -> Tensor:
    """Cut rows and columns at the end so that ``scale`` divides the size."""
    return x[..., : x.shape[-2] // scale * scale, : x.shape[-1] // scale * scale]


def _originals(folder: Path) -> list[Path]:
    """The pictures of a folder, by name; InputError where two have one name but for the suffix."""
    paths = image_files(folder)
    stems = [path.stem for path in paths]
    for path in paths:
        if stems.count(path.stem) > 1:
            raise InputError(f"{folder} holds two originals named {path.stem}: figures are told apart by that name")
    return paths


def _read_original(path: Path, multiple: int, crop: int, least: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture as (H, W, 3) uint8 cut to a multiple, and its height and width before that.

    Raises:
        InputError: fewer than ``least`` pixels a side are left, or too few once the crop is left out.
    """
    picture = read_rgb(path)
    height, width = (n // multiple * multiple for n in picture.shape[:2])
    if min(height, width) < 2 * crop + SMALLEST:
        left_out = f"it leaves {crop} pixels out at each border and needs {SMALLEST} between them"
        raise InputError(f"{path} is too small for this protocol: {left_out}")
    if min(height, width) < least:
        raise InputError(f"{path} is too small for this protocol: it needs {least} pixels a side")
    return picture[:height, :width], picture.shape[:2]


def _read_result(path: Path, original: np.ndarray, full: tuple[int, int]) -> np.ndarray:
    """A published result as (H, W, 3) uint8 of the size of the original, which was cut; or of its ``full`` size."""
    picture = read_rgb(path)
    height, width = original.shape[:2]
    if picture.shape[:2] not in (full, (height, width)):
        cut = f", or {width}x{height} without what the scale does not divide" if full != (height, width) else ""
        raise InputError(f"{path} is {picture.shape[1]}x{picture.shape[0]}, the original is {full[1]}x{full[0]}{cut}")
    return picture[:height, :width]


def _check_place(path: Path, shift: GlobalShift) -> None:
    x, y = shift.found
    if np.hypot(x, y) > LARGEST_SHIFT and shift.certain:
        raise InputError(f"{path} lies {x:+.1f} pixels in x and {y:+.1f} in y off the original: it is of another phase")


def _photos(data: Path, setting: _Setting) -> Iterator[_Row]:
    protocol, scale, crop = setting.protocol, setting.scale, setting.crop
    paths = _originals(data)
    published = [(folder.name, results_for(folder, paths)) for folder in setting.results]
    rng = np.random.default_rng(0)

    def figures(sr: Tensor, hr: Tensor) -> list[float]:
        return measure(in_8_bits(sr), hr, protocol, crop, setting.perceptual)

    for path in paths[: setting.limit]:
        original, full = _read_original(path, scale, crop)
        hr = to_tensor(original)
        lr = quantize(degrade(hr[None], protocol.degradation, scale, rng))
        yield path.stem, "cubic", figures(resize(lr, scale=scale, phase=PHASES[protocol.degradation])[0], hr)
        for name, model in setting.models:
            yield path.stem, name, figures(model(lr.to(setting.device))[0], hr)
        for name, files in published:
            sr, shift = to_tensor(_read_result(files[path.stem], original, full)), GlobalShift(scale)
            _add_pair(shift, sr, hr, crop)
            _check_place(files[path.stem], shift)
            yield path.stem, name, figures(sr, hr)


def _add_pair(shift: GlobalShift, sr: Tensor, hr: Tensor, crop: int) -> None:
    shift.add(*(luma(x)[0, crop:-crop, crop:-crop].double().numpy() for x in (sr, hr)))


def _clips(data: Path, setting: _Setting) -> Iterator[_Row]:
    protocol, scale = setting.protocol, setting.scale
    clips = list_clips(data)
    published = [(folder.name, clips_for(folder, clips)) for folder in setting.results]
    rng = np.random.default_rng(0)
    for clip in clips[: setting.limit]:
        paths = _originals(clip)
        originals, sizes = map(list, zip(*(_read_original(path, scale, setting.crop) for path in paths), strict=True))
        if len({x.shape for x in originals}) > 1:
            raise InputError(f"{clip}: its frames differ in size")
        lr = torch.cat([quantize(degrade(to_tensor(x)[None], protocol.degradation, scale, rng)) for x in originals])
        for name, model in [("cubic", None), *setting.models]:
            yield clip.name, name, _clip_figures(_upscale_clip(model, lr, setting), originals, setting)
        for name, folders in published:
            files, shift = results_for(folders[clip.name], paths), GlobalShift(scale)
            triples = zip(paths, originals, sizes, strict=True)
            frames = (to_tensor(_read_result(files[path.stem], original, full)) for path, original, full in triples)
            values = _clip_figures(frames, originals, setting, shift)
            _check_place(folders[clip.name], shift)
            yield clip.name, name, values


def _clip_figures(
    frames: Iterable[Tensor], originals: list[np.ndarray], setting: _Setting, shift: GlobalShift | None = None
) -> list[float]:
    """PSNR and SSIM as means over all frames, tOF, LPIPS; ``shift`` is told every frame."""
    values, steadiness = [], Steadiness(setting.crop)
    for frame, original in zip(frames, originals, strict=True):
        sr, hr = in_8_bits(frame), to_tensor(original)
        values.append(measure(sr, hr, setting.protocol, setting.crop, setting.perceptual))
        steadiness.add(sr.mul(255).round().byte().permute(1, 2, 0).numpy(), original)
        if shift is not None:
            _add_pair(shift, sr, hr, setting.crop)
    means = [mean_known(column) for column in zip(*values, strict=True)]
    return [*means[:2], steadiness.mean, *means[2:]]


def _upscale_clip(model: nn.Module | None, lr: Tensor, setting: _Setting) -> Iterator[Tensor]:
    """The frames of a clip by cubic enlargement, an image model or a video model, one after the other."""
    state, last = None, lr.shape[0] - 1
    ahead = max(int(getattr(model, name, 1)) for name in ("lookahead", "warm_up"))
    for t in range(lr.shape[0]):
        frame = lr[t : t + 1].to(setting.device)
        if model is None:
            yield resize(frame, scale=setting.scale, phase=PHASES[setting.protocol.degradation])[0]
        elif model.kind == "image":
            yield model(frame)[0]
        else:
            # As many of the frames that follow as it looks at, as in a stream; after the last, the last again.
            future = lr[None, min(t + 1, last) : t + 1 + ahead].to(setting.device)
            sr, state = model.step(frame, future, state)  # type: ignore[operator]
            yield sr[0]


def _bursts(data: Path, setting: _Setting) -> Iterator[_Row]:
    scale, crop = setting.scale, setting.crop
    for index, path in enumerate(_originals(data)[: setting.limit]):
        photo, rng = _read_original(path, scale, crop)[0], np.random.default_rng(index)
        frames, hr = burst_from_photo(photo, max(BURST_COUNTS), scale, rng, BURST_NOISE)
        results = [("cubic", resize(frames[:1], scale=scale))]
        for name, model in setting.models:
            if model.kind == "image":
                results.append((name, model(frames[:1].to(setting.device))))
                continue
            for count in BURST_COUNTS:
                sr = model(frames[None, :count].to(setting.device))
                results.append((f"{name}, {count} frame{'s' * (count > 1)}", sr))
        for name, sr in results:
            yield path.stem, name, measure(in_8_bits(sr[0]), hr, setting.protocol, crop, setting.perceptual)


def _raw_bursts(data: Path, setting: _Setting) -> Iterator[_Row]:
    for index, path in enumerate(_originals(data)[: setting.limit]):
        # Twice the scale: the mosaic has whole tiles of two by two.
        photo, _ = _read_original(path, 2 * setting.scale, setting.crop, RAW_SIDE * setting.scale)
        burst = protocol_burst(photo, index, RAW_COUNT, setting.scale)
        yield path.stem, "single", [*raw_figures(single_frame(burst, setting.scale), burst)]
        yield path.stem, "handheld", [*raw_figures(handheld(burst, setting.scale), burst)]
        for name, model in setting.models:
            yield path.stem, name, [*raw_figures(learned(burst, model), burst)]


def _in_place(name: str, model: nn.Module, protocol: Protocol) -> tuple[str, nn.Module]:
    """The model, its results moved (and its name saying so) where it is of another phase than the protocol."""
    if protocol.of not in ("photos", "clips") or model.phase == PHASES[protocol.degradation]:
        return name, model
    return f"{name}, moved", at_phase(model, PHASES[protocol.degradation])


_ROWS = {"photos": _photos, "clips": _clips, "bursts": _bursts, "raw bursts": _raw_bursts}


def evaluate(
    protocol: str,
    data: Path,
    models: Sequence[str],
    *,
    results: Sequence[Path] = (),
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
    ensemble: bool = False,
) -> Table:
    """Measure models, and results that other programs have written, by a named protocol.

    The protocols reduce the originals, keep the outcome in 8 bits, enlarge it by each method, and compare 8-bit
    results with the originals; docs/protocols.md defines each.

    Args:
        protocol: ``sisr-x2-y``, ``sisr-x3-y``, ``sisr-x4-y``, ``sisr-x4-bd-y``, ``vsr-x2-bi-y``, ``vsr-x4-bi-y``,
            ``vsr-x4-bd-y``, ``vsr-x4-bi-rgb``, ``burst`` or ``burst-raw-x4``.
        data: a folder of photos; for ``vsr`` a folder of folders of frames.
        models: names or weights files; where one is of another phase, its results are moved (`msr.models.at_phase`).
        results: folders of results, named and arranged as the originals are; for ``sisr`` and ``vsr``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights.
        limit: use only so many photos or clips, the first by name.
        ensemble: whether the models, of kind ``"image"``, run on each picture turned and flipped in all eight ways.

    Returns:
        A row for each original and method, then the mean of each method. PSNR (dB) and SSIM; tOF (pixels) of clips;
        LPIPS where it is at hand. The first method is cubic enlargement at the right phase (``single``, for RAW: of
        the base frame as LibRaw demosaics it).

    Raises:
        InputError: no such protocol, folder or model; models that the protocol does not take; originals that are too
            small or, in a clip, of different sizes; results that are missing, too many, of another size, or shifted
            by more than half a pixel.

    Example:
        >>> evaluate("sisr-x4-y", Path("Set5"), ["image-x4"]).rows[-1][:3]    # doctest: +SKIP
        ['mean', 'image-x4', '31.43']
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    wanted = PROTOCOLS[protocol]
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1, got {limit}")
    if results and wanted.of not in ("photos", "clips"):
        raise InputError(f"the protocol {protocol} takes no folders of results: its bursts are made on the spot")
    if not models and not results and wanted.of != "raw bursts":  # those are merged without training, too
        raise InputError("no model to evaluate: name at least one with --model, or results with --results")
    scale, loaded, place = wanted.scale, [], torch.device("cpu")
    for name in models:
        chosen = choose_model(wanted.kinds, scale, name, device, dtype, ensemble=ensemble)
        scale, place = chosen.scale, chosen.device
        label = f"{Path(name).stem}, ensemble" if ensemble else Path(name).stem
        loaded.append(_in_place(label, chosen.module, wanted))
    assert scale is not None
    perceptual = None if wanted.of == "raw bursts" else load_lpips(place)
    crop = wanted.crop or 2 * scale
    setting = _Setting(wanted, loaded, list(results), scale, crop, place, limit, perceptual)
    names = ["PSNR", "SSIM"] if wanted.of != "raw bursts" else ["sRGB PSNR", "linear PSNR"]
    names += ["tOF"] * (wanted.of == "clips") + ["LPIPS"] * (perceptual is not None)
    maker = TableMaker(names)
    with torch.inference_mode():
        for row in _ROWS[wanted.of](data, setting):
            maker.add(*row)
    return maker.table(protocol if wanted.scale else f"{protocol} x{scale}")
