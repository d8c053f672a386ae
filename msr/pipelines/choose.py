"""Which model runs, where and in which precision."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from msr.errors import InputError
from msr.models import available_models, load_model, self_ensemble
from msr.ops._processor import multiplies_bfloat16
from msr.ops.resize import Phase

#: A name that ships, a weights file, or a loaded module.
Model = str | Path | nn.Module

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Pixels of context around a tile for models that name none: what flow and alignment reach.
_HALO = 48

#: Defaults that are not ``{kind}-x{scale}``, which does less well on people's own files.
_OWN_FILES = {("burst", 4): "burst-x4-real"}

#: A larger output is refused: 2^30 pixels, the limit of the picture encoders.
MAX_OUTPUT_PIXELS = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A model ready to run: the module, its enlargement factor, and where its inputs go."""

    module: nn.Module
    kind: str
    scale: int
    halo: int
    device: torch.device
    dtype: torch.dtype
    layout: torch.memory_format

    def place(self, x: Tensor) -> Tensor:
        """Put RGB ``(1, 3, H, W)`` float32 on the model's device, in the memory format that it runs in."""
        return x.to(self.device, memory_format=self.layout)

    @property
    def phase(self) -> Phase:
        """Where the output pixels lie."""
        return getattr(self.module, "phase", "centered")

    def check_size(self, height: int, width: int, name: str) -> None:
        """Refuse a picture whose enlargement has more than ``MAX_OUTPUT_PIXELS``."""
        if height * width * self.scale**2 > MAX_OUTPUT_PIXELS:
            size = f"{width * self.scale}x{height * self.scale}"
            raise InputError(f"{name} would become {size} pixels; at most {MAX_OUTPUT_PIXELS:,} are made")


def choose_model(
    kinds: tuple[str, ...],
    scale: int | None,
    model: Model | None,
    device: str = "auto",
    dtype: str = "float32",
    *,
    ensemble: bool = False,
) -> Chosen:
    """Find and load the model for a task.

    Args:
        kinds: what may run here, the default kind first (``"image"``, ``"video"``, ``"burst"``).
        scale: enlargement factor; None: that of the model, or 4.
        model: None for the one that ships for the first kind and the scale; a name, a weights file, or a module, which
            runs where and as it is (``device`` and ``dtype`` are for names and files).
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` (see `resolve_dtype`).
        ensemble: whether results are means over turns and flips (`msr.models.self_ensemble`).

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: no such model or weights, another kind or scale, no such device or dtype, a model that cannot be
            run on turned pictures.

    Example:
        >>> choose_model(("image",), 4, None).scale    # doctest: +SKIP
        4
    """
    place = torch.device("cpu") if isinstance(model, nn.Module) else resolve_device(device)
    precision = resolve_dtype(dtype, place)
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int) or scale < 1):
        raise InputError(f"scale must be a whole number from 1, got {scale!r}")
    if isinstance(model, nn.Module):
        first = next(model.parameters(), None)
        place = first.device if first is not None else torch.device("cpu")
        precision = first.dtype if first is not None else torch.float32
        layout = torch.contiguous_format if precision == torch.float32 else torch.channels_last
        module = model
    else:
        name = _default_name(kinds[0], 4 if scale is None else scale) if model is None else model
        # channels_last is quicker, but not in float32 on GPUs without tensor cores for it; on others: not measured.
        planes = place.type == "cuda" and precision == torch.float32
        layout = torch.contiguous_format if planes else torch.channels_last
        module = load_model(name, device=place, dtype=precision).to(memory_format=layout)  # type: ignore[call-overload]
    label = type(module).__name__ if isinstance(model, nn.Module) else str(model)
    kind, own = str(module.kind), int(module.scale)  # type: ignore[arg-type]
    if kind not in kinds:
        raise InputError(f"{label} is of kind {kind}; this needs {' or '.join(kinds)}")
    if scale is not None and own != scale:
        raise InputError(f"{label} enlarges {own} times, not {scale}")
    if ensemble:
        try:
            module = self_ensemble(module)
        except ValueError as error:
            raise InputError(f"{label}: {error}") from None
    halo = int(getattr(module, "halo", _HALO))
    return Chosen(module, kind, own, halo, place, precision, layout)


def nearest_scale(kind: str, factor: float) -> int:
    """The scale of the weights that ship for a kind from which a factor is best reached: the least that is as large.

    Where all are smaller it is the largest of them.

    Raises:
        InputError: no weights of that kind ship.

    Example:
        >>> nearest_scale("image", 1.5)    # doctest: +SKIP
        2
    """
    scales = sorted({card.scale for card in available_models() if card.kind == kind})
    if not scales:
        raise InputError(f"no {kind} weights ship; name a weights file")
    return next((scale for scale in scales if scale >= factor), scales[-1])


def resolve_device(device: str) -> torch.device:
    """The device of a name; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: the name is none, or there is no such device.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {device!r}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices")
    return chosen


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is the quicker of the first two.

    Raises:
        InputError: another name.

    Example:
        >>> resolve_dtype("bfloat16", torch.device("cpu"))
        torch.bfloat16
    """
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    if dtype not in _DTYPES:
        raise InputError(f"dtype must be one of auto, {', '.join(_DTYPES)}, got {dtype!r}")
    return _DTYPES[dtype]


def _default_name(kind: str, scale: int) -> str:
    shipped = {card.name: card.scale for card in available_models() if card.kind == kind}
    name = _OWN_FILES.get((kind, scale), f"{kind}-x{scale}")
    if name not in shipped:
        scales = sorted(set(shipped.values()))
        have = f"there are some for {', '.join(f'x{s}' for s in scales)}" if scales else "none of that kind ship"
        raise InputError(f"no {kind} weights for scale {scale}: {have}")
    return name
