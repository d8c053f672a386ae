"""Pictures as users hold them, to tensors and back: arrays or tensors, any depth, gray, RGB or with alpha."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from msr.errors import InputError
from msr.ops.resize import Phase, resize

#: A picture as the public functions take and give it.
Image = np.ndarray | Tensor

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a picture was given, so that its enlargement is given back alike."""

    shape: tuple[int, ...]
    dtype: np.dtype | torch.dtype
    device: torch.device | None
    channels: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.device is not None and len(self.shape) == 3:
            return self.shape[1], self.shape[2]
        return self.shape[0], self.shape[1]

    def __str__(self) -> str:
        height, width = self.size
        return f"{width}x{height}"


def describe(image: Image, name: str) -> Layout:
    """Look at a picture without touching its values.

    Args:
        image: array ``(H, W)`` or ``(H, W, C)``, or tensor ``(H, W)`` or ``(C, H, W)``, with C of 1, 3 or 4; uint8,
            uint16 or floating point (arrays: float32; tensors also half precision).
        name: how an error names the picture.

    Returns:
        The layout, for ``unpack`` and ``pack``.

    Raises:
        InputError: another shape or dtype, or no pixels.

    Example:
        >>> describe(np.zeros((4, 5), np.uint8), "image").size
        (4, 5)
    """
    if not isinstance(image, np.ndarray | Tensor):
        raise InputError(f"{name} must be a numpy array or a torch tensor, got {type(image).__name__}")
    shape = tuple(image.shape)
    first = isinstance(image, Tensor)
    channels = 1 if len(shape) == 2 else shape[0 if first else 2] if len(shape) == 3 else 0
    if channels not in (1, 3, 4):
        kinds = "({0}), ({1}), ({2}) or (H, W)"
        wanted = kinds.format(*(f"{c}, H, W" if first else f"H, W, {c}" for c in (3, 4, 1)))
        raise InputError(f"{name} must have the shape {wanted}, got {shape}")
    if 0 in shape:
        raise InputError(f"{name} has no pixels: its shape is {shape}")
    if isinstance(image, np.ndarray):
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise InputError(f"{name} must be uint8, uint16 or float32, got {image.dtype}")
        return Layout(shape, image.dtype, None, channels)
    if image.dtype not in (torch.uint8, torch.uint16, *_FLOATS):
        raise InputError(f"{name} must be uint8, uint16 or floating point, got {image.dtype}")
    return Layout(shape, image.dtype, image.device, channels)


def unpack(image: Image, layout: Layout, name: str) -> tuple[Tensor, Tensor | None]:
    """Split a picture into RGB and alpha in [0, 1].

    Args:
        image: a picture; floating point in [0, 1].
        layout: what ``describe`` said of it.
        name: how an error names the picture.

    Returns:
        RGB ``(1, 3, H, W)`` float32 (gray thrice), and alpha ``(1, 1, H, W)`` or None.

    Raises:
        InputError: values that are not finite or outside [0, 1].

    Example:
        >>> gray = np.zeros((4, 5), np.uint8)
        >>> unpack(gray, describe(gray, "image"), "image")[0].shape
        torch.Size([1, 3, 4, 5])
    """
    if isinstance(image, np.ndarray):
        # torch knows little of uint16; int32 holds it. It also wants to own what it may write to.
        plain = image.astype(np.int32) if image.dtype == np.uint16 else np.ascontiguousarray(image)
        values = torch.from_numpy(plain if plain.flags.writeable else plain.copy())
        values = values[..., None] if values.ndim == 2 else values
        values = values.permute(2, 0, 1)
    else:
        values = image.detach()
    unit = (values[None] if values.ndim == 2 else values)[None].to(torch.float32)
    top = _top(layout.dtype)
    if top is None:
        low, high = unit.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InputError(f"{name} holds values that are not finite (NaN or infinity)")
        if low < -0.01 or high > 1.01:
            raise InputError(f"{name} must lie in [0, 1] as floating point, got {float(low):.4g} to {float(high):.4g}")
        unit = unit.clamp(0, 1)
    else:
        unit = unit / top
    rgb = unit.expand(-1, 3, -1, -1) if layout.channels == 1 else unit[:, :3]
    return rgb.contiguous(), unit[:, 3:] if layout.channels == 4 else None


def pack(rgb: Tensor, alpha: Tensor | None, layout: Layout, phase: Phase = "centered") -> Image:
    """Put an enlarged picture into the form that its source had.

    Args:
        rgb: ``(1, 3, sH, sW)``, floating point; clipped to [0, 1].
        alpha: the source's alpha ``(1, 1, H, W)`` or None; enlarged by cubic convolution.
        layout: of the source.
        phase: where the pixels of ``rgb`` lie, so that alpha lies there, too.

    Returns:
        An array or tensor of the source's dtype and number of channels; integers are rounded to nearest.

    Example:
        >>> source = np.zeros((4, 5, 4), np.uint16)
        >>> layout = describe(source, "image")
        >>> rgb, alpha = unpack(source, layout, "image")
        >>> pack(torch.rand(1, 3, 8, 10), alpha, layout).shape
        (8, 10, 4)
    """
    values = rgb.float()
    if layout.channels == 1:
        values = values.mean(1, keepdim=True)
    elif alpha is not None:
        alpha = resize(alpha.to(values.device), size=(values.shape[2], values.shape[3]), phase=phase)
        values = torch.cat([values, alpha], 1)
    values = values.clamp(0, 1)[0]
    top = _top(layout.dtype)
    if top is not None:
        values = (values * top).round_()
    if len(layout.shape) == 2:
        values = values[0]
    elif layout.device is None:
        values = values.permute(1, 2, 0)
    if isinstance(layout.dtype, torch.dtype):
        # There is no direct conversion to uint16 on every device.
        whole = values.to(torch.int32) if layout.dtype == torch.uint16 else values
        return whole.to(layout.device).to(layout.dtype)
    return np.ascontiguousarray(values.cpu().numpy().astype(layout.dtype))


def _top(dtype: np.dtype | torch.dtype) -> int | None:
    """The value of white of an integer type, None of a floating-point type."""
    return {"uint8": 255, "uint16": 65535}.get(str(dtype).removeprefix("torch."))
