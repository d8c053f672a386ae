"""Single pictures, in memory and from file to file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from msr import io
from msr.errors import InputError
from msr.pipelines.choose import Chosen, Model, choose_model
from msr.pipelines.pixels import Image, describe, pack, unpack
from msr.pipelines.progress import Bar, Report, progress_bar
from msr.pipelines.tiling import Tiles, choose_tile, join_within_memory


@dataclasses.dataclass(frozen=True)
class Written:
    """A result on disk: where, how large, how many frames were read for it, in how many seconds."""

    path: Path
    width: int
    height: int
    frames: int
    seconds: float


def upscale_image(
    image: Image,
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    ensemble: bool = False,
) -> Image:
    """Enlarge a picture.

    Source: the networks of ``msr.models.image``; tiles as in ``msr.pipelines.tiling``.

    Args:
        image: array ``(H, W, 3)`` RGB, ``(H, W)`` or ``(H, W, 1)`` gray, ``(H, W, 4)`` RGBA; uint8, uint16 or
            float32 in [0, 1], encoded as sRGB. Or a tensor with the channels first.
        scale: enlargement factor; None: the model's, or 4.
        model: None for ``image-x{scale}``, a name, a weights file or a loaded module.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the
            device has instructions for it, else float32.
        tile: side of the tiles in LR pixels, at least 32; None or 0: by the size of the memory.
        ensemble: take the mean over the picture turned and flipped in all eight ways, which is a little better (some
            0.1 dB) and takes eight times as long; for models of the phase ``"centered"``.

    Returns:
        The enlargement, of the same type, dtype and channels; alpha is enlarged by cubic convolution.

    Raises:
        InputError: a picture, model, device or tile that does not fit.

    Example:
        >>> upscale_image(np.zeros((24, 32, 3), np.uint8), model="image-x4").shape    # doctest: +SKIP
        (96, 128, 3)
    """
    return run_image(image, choose_model(("image",), scale, model, device, dtype, ensemble=ensemble), tile, "image")


def upscale_image_files(
    sources: Sequence[str | Path],
    target: str | Path,
    scale: int | None = None,
    model: Model | None = None,
    *,
    device: str = "auto",
    dtype: str = "float32",
    tile: int | None = None,
    ensemble: bool = False,
    progress: bool = False,
) -> list[Written]:
    """Enlarge picture files.

    The results keep depth, gray or colour, alpha, colour profile and EXIF as far as the format of the target holds
    them.

    Args:
        sources: PNG, JPEG, TIFF, WebP, BMP, HEIF or RAW files.
        target: a file for one source; a folder for several (made if missing) or if it is one: results are
            named as their sources, those of RAW and HEIF files with ``.png``.
        scale: enlargement factor; None: the model's, or 4.
        model: as for ``upscale_image``.
        device: likewise.
        dtype: likewise.
        tile: likewise.
        ensemble: likewise.
        progress: whether to show a bar on a terminal, and to say on standard error what a result had to leave out.

    Returns:
        What was written, in the order of the sources.

    Raises:
        InputError: see ``upscale_image``; also a source that cannot be read or a target that cannot be written.
        WorkError: writing failed.

    Example:
        >>> upscale_image_files(["photo.jpg"], "photo-x4.png")    # doctest: +SKIP
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise InputError("no input: at least one picture is needed")
    targets = _targets(paths, Path(target))
    chosen = choose_model(("image",), scale, model, device, dtype, ensemble=ensemble)
    written = []
    report = Bar() if progress else Report()
    with progress_bar("image", len(paths), "images", progress and len(paths) > 1) as advance:
        for path, result in zip(paths, targets, strict=True):
            started = time.perf_counter()
            picture = load_picture(path)
            height, width = picture.pixels.shape[0] * chosen.scale, picture.pixels.shape[1] * chosen.scale
            io.check_format(result, (height, width, *picture.pixels.shape[2:]))
            pixels = run_image(picture.pixels, chosen, tile, str(path))
            _make_folder(result.parent)
            io.write_image(result, pixels, picture.icc, picture.exif, report.note)  # type: ignore[arg-type]
            written.append(Written(result, width, height, 1, time.perf_counter() - started))
            advance()
    return written


def run_image(image: Image, chosen: Chosen, tile: int | None, name: str) -> Image:
    """Enlarge one picture with a model at hand; ``name`` is how an error names the picture."""
    layout = describe(image, name)
    chosen.check_size(*layout.size, name)
    rgb, alpha = unpack(image, layout, name)
    with torch.inference_mode():
        x = chosen.place(rgb)
        side = choose_tile(tile, chosen.device)

        def enlarge(tiles: Tiles, index: int) -> Tensor:
            enlarged: Tensor = chosen.module(tiles.cut(x, index))
            return enlarged

        large = join_within_memory(layout.size, side, chosen.halo, enlarge, chosen.scale)
        return pack(large, alpha, layout, chosen.phase)


def load_picture(path: Path) -> io.Picture:
    """Read a picture or develop a RAW photo."""
    return io.Picture(io.read_raw(path), exif=io.raw_exif(path)) if io.is_raw(path) else io.read_image(path)


def _targets(sources: list[Path], target: Path) -> list[Path]:
    """The name of each result, all of them checked before the first is made."""
    for source in sources:
        io.check_file(source)
    try:
        folder, exists = target.is_dir(), target.exists()
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from None
    if len(sources) == 1 and not folder:
        targets = [target]
    else:
        if exists and not folder:
            raise InputError(f"{target} is a file; {len(sources)} inputs need a folder to write to")
        read_only = io.RAW_SUFFIXES + io.HEIF_SUFFIXES
        targets = [
            target / (source.with_suffix(".png").name if source.suffix.lower() in read_only else source.name)
            for source in sources
        ]
        if len(set(targets)) < len(targets):
            twice = next(path for path in targets if targets.count(path) > 1)
            raise InputError(f"two inputs would both be written to {twice}")
        if not exists:
            io.check_output(target)
    for path in targets:
        if folder or path == target:
            io.check_output(path, sources)
        io.check_format(path, (1, 1))
    return targets


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}") from None
