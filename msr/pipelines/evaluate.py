"""The named evaluation protocols: originals in, a table of figures out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from msr.degradation import BURST_NOISE, PHASES, DegradationName, burst_from_photo, degrade, to_tensor
from msr.errors import InputError
from msr.io.frames import image_files
from msr.io.image import convert_depth, read_image
from msr.metrics import luma, psnr, quantize
from msr.ops.resize import resize
from msr.pipelines.burst_protocol import CROP, learned, protocol_burst, raw_figures, single_frame
from msr.pipelines.choose import choose_model

BURST_COUNTS = (2, 4, 8)
RAW_COUNT = 15

# Eight pixels: what most video papers leave out.
_CLIP_CROP = 8


@dataclass(frozen=True)
class Table:
    """Figures in rows; the last row is the mean."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def as_json(self) -> str:
        """The table as a JSON object with ``title``, ``columns`` and ``rows``."""
        return json.dumps({"title": self.title, "columns": self.columns, "rows": self.rows}, indent=1)


@dataclass(frozen=True)
class _Setting:
    models: list[tuple[str, nn.Module]]
    scale: int
    device: torch.device


def read_rgb(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB, gray repeated, alpha left out."""
    pixels = convert_depth(read_image(path).pixels, "uint8")
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3])


def crop_to_multiple(x: Tensor, scale: int) -> Tensor:
    """Cut rows and columns at the end so that ``scale`` divides the size."""
    return x[..., : x.shape[-2] // scale * scale, : x.shape[-1] // scale * scale]


def _read_original(path: Path, scale: int, crop: int) -> np.ndarray:
    """A picture as (H, W, 3) uint8; InputError where the crop at its borders would leave nothing of it."""
    picture = read_rgb(path)
    if min(picture.shape[:2]) // scale * scale <= 2 * crop:
        raise InputError(f"{path} is too small for this protocol: it leaves {crop} pixels out at each border")
    return picture


def _psnr_y(sr: Tensor, hr: Tensor, crop: int) -> float:
    return psnr(luma(quantize(sr.float().cpu())), luma(hr), crop=crop)


def _photos(
    data: Path, limit: int | None, setting: _Setting, name: DegradationName
) -> Iterator[tuple[str, list[float]]]:
    rng = np.random.default_rng(0)
    for path in image_files(data)[:limit]:
        hr = crop_to_multiple(to_tensor(_read_original(path, setting.scale, setting.scale))[None], setting.scale)
        lr = quantize(degrade(hr, name, setting.scale, rng))
        results = [resize(lr, scale=setting.scale, phase=PHASES[name])]
        results += [model(lr.to(setting.device)) for _, model in setting.models]
        yield path.stem, [_psnr_y(sr, hr, setting.scale) for sr in results]


def _clips(
    data: Path, limit: int | None, setting: _Setting, name: DegradationName
) -> Iterator[tuple[str, list[float]]]:
    folders = sorted(p for p in data.iterdir() if p.is_dir())[:limit]
    if not folders:
        raise InputError(f"{data}: holds no folders of frames")
    rng = np.random.default_rng(0)
    for folder in folders:
        originals = [to_tensor(_read_original(p, setting.scale, _CLIP_CROP)) for p in image_files(folder)]
        if len({x.shape for x in originals}) > 1:
            raise InputError(f"{folder}: its frames differ in size")
        hr = crop_to_multiple(torch.stack(originals), setting.scale)
        lr = quantize(degrade(hr, name, setting.scale, rng))
        figures = []
        for model in [None, *(m for _, m in setting.models)]:
            frames = _upscale_clip(model, lr.to(setting.device), setting.scale, name)
            values = [_psnr_y(sr, truth, _CLIP_CROP) for sr, truth in zip(frames, hr, strict=True)]
            figures.append(float(np.mean(values)))
        yield folder.name, figures


def _upscale_clip(model: nn.Module | None, lr: Tensor, scale: int, name: DegradationName) -> Iterator[Tensor]:
    """The frames of a clip by cubic enlargement, an image model or a video model, one after the other."""
    state = None
    for t in range(lr.shape[0]):
        frame = lr[t : t + 1]
        if model is None:
            yield resize(frame, scale=scale, phase=PHASES[name])[0]
        elif model.kind == "image":
            yield model(frame)[0]
        else:
            sr, state = model.step(frame, lr[None, min(t + 1, lr.shape[0] - 1)][None], state)  # type: ignore[operator]
            yield sr[0]


def _bursts(
    data: Path, limit: int | None, setting: _Setting, name: DegradationName
) -> Iterator[tuple[str, list[float]]]:
    for index, path in enumerate(image_files(data)[:limit]):
        photo, rng = _read_original(path, setting.scale, 2 * setting.scale), np.random.default_rng(index)
        frames, hr = burst_from_photo(photo, max(BURST_COUNTS), setting.scale, rng, BURST_NOISE)
        results = [resize(frames[:1], scale=setting.scale)]
        for _, model in setting.models:
            if model.kind == "image":
                results.append(model(frames[:1].to(setting.device)))
            else:
                results += [model(frames[None, :n].to(setting.device)) for n in (1, *BURST_COUNTS)]
        # Frames shift by 4 pixels, so that the border of the picture is seen by some of them only.
        yield path.stem, [_psnr_y(sr, hr[None], 2 * setting.scale) for sr in results]


def _raw_bursts(
    data: Path, limit: int | None, setting: _Setting, name: DegradationName
) -> Iterator[tuple[str, list[float]]]:
    for index, path in enumerate(image_files(data)[:limit]):
        burst = protocol_burst(_read_original(path, 2 * setting.scale, CROP), index, RAW_COUNT, setting.scale)
        results = [single_frame(burst, setting.scale), *(learned(burst, model) for _, model in setting.models)]
        yield path.stem, [figure for result in results for figure in raw_figures(result, burst)]


_Rows = Callable[[Path, int | None, _Setting, DegradationName], Iterator[tuple[str, list[float]]]]

# Name: what makes the rows, the degradation, the kinds of models it takes.
PROTOCOLS: dict[str, tuple[_Rows, DegradationName, tuple[str, ...]]] = {
    "image-bi": (_photos, "bi", ("image",)),
    "image-bd": (_photos, "bd", ("image",)),
    "video-bd": (_clips, "bd", ("image", "video")),
    "video-bi": (_clips, "bi", ("image", "video")),
    "burst": (_bursts, "box", ("image", "burst")),
    "burst-raw-x4": (_raw_bursts, "raw", ("burst-raw",)),
}


def _columns(protocol: str, models: list[tuple[str, nn.Module]]) -> list[str]:
    if protocol == "burst-raw-x4":
        return [
            "",
            *(f"{name}, {space}" for name in ("single", *(n for n, _ in models)) for space in ("sRGB", "linear")),
        ]
    columns = ["", "cubic"]
    for name, model in models:
        if protocol == "burst" and model.kind == "burst":
            columns += [f"{name}, {n} frame{'s' * (n > 1)}" for n in (1, *BURST_COUNTS)]
        else:
            columns.append(name)
    return columns


def evaluate(
    protocol: str,
    data: Path,
    models: list[str],
    *,
    device: str = "auto",
    dtype: str = "float32",
    limit: int | None = None,
) -> Table:
    """Measure models by a named protocol.

    All protocols but the last degrade the originals, keep the result in 8 bits, and give PSNR in decibels on the Y
    channel of 8-bit results:

    - ``image-bi``: MATLAB cubic; the crop is the scale (Set5 and Set14 as usual).
    - ``image-bd``, ``video-bd``: Gaussian blur of sigma 1.6, then every ``scale``-th pixel; the crop is the scale for
      photos, 8 pixels for clips (mean over all frames; image models run frame by frame).
    - ``video-bi``: clips under MATLAB cubic.
    - ``burst``: 8 frames of each photo, shifted by up to 4 low-resolution pixels, turned by up to a degree, reduced by
      area, noise of sigma 0.01; the crop is twice the scale.
    - ``burst-raw-x4``: RAW bursts of 15 frames (`msr.burst_simulation.simulate_raw_burst`, seeded by the number of the
      photo), the same shifts and turns; PSNR of RGB, developed to 8-bit sRGB and in linear camera RGB; the crop is 16.

    Args:
        protocol: one of the names above.
        data: a folder of photos; for clips a folder of folders of frames.
        models: names or weights files, of one scale.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights.
        limit: use only so many photos or clips, the first by name.

    Returns:
        A row for each photo or clip and the mean; the columns are cubic enlargement at the right phase (for RAW of the
        base frame as LibRaw demosaics it) and the models.

    Raises:
        InputError: no such protocol, folder or model, models that the protocol does not take, or originals that are
            too small or, in a clip, of different sizes.

    Example:
        >>> evaluate("image-bi", Path("Set5"), ["image-x4"]).rows[-1]    # doctest: +SKIP
        ['mean', '28.43', '31.40']
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    if limit is not None and limit < 1:
        raise InputError(f"the limit must be at least 1, got {limit}")
    if not models:
        raise InputError("no model to evaluate: name at least one with --model")
    rows_of, degradation, kinds = PROTOCOLS[protocol]
    scale = 4 if protocol == "burst-raw-x4" else None
    first = choose_model(kinds, scale, models[0], device, dtype)
    others = [choose_model(kinds, first.scale, name, device, dtype) for name in models[1:]]
    loaded = [(Path(name).stem, chosen.module) for name, chosen in zip(models, [first, *others], strict=True)]
    setting = _Setting(loaded, first.scale, first.device)
    rows, figures = [], []
    with torch.inference_mode():
        for label, values in rows_of(data, limit, setting, degradation):
            figures.append(values)
            rows.append([label, *(f"{v:.2f}" for v in values)])
    rows.append(["mean", *(f"{v:.2f}" for v in np.mean(figures, axis=0))])
    title = f"{protocol}, PSNR (dB)" if degradation == "raw" else f"{protocol} x{setting.scale}, PSNR-Y (dB)"
    return Table(title, _columns(protocol, loaded), rows)
