"""Pictures as users hold them, to tensors and back: arrays or tensors, any depth, gray, RGB or with alpha."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from msr.errors import InputError
from msr.nn.resize import resize

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


def unpack(image: Image, name: str) -> tuple[Tensor, Tensor | None, Layout]:
    """Split a picture into RGB and alpha in [0, 1].

    Args:
        image: array ``(H, W)`` or ``(H, W, C)``, or tensor ``(H, W)`` or ``(C, H, W)``, with C of 1, 3 or 4; uint8,
            uint16 or floating point in [0, 1] (arrays: float32; tensors also half precision).
        name: how an error names the picture.

    Returns:
        RGB ``(1, 3, H, W)`` float32 (gray thrice), alpha ``(1, 1, H, W)`` or None, and the layout for ``pack``.

    Raises:
        InputError: another shape or dtype, no pixels, values that are not finite or outside [0, 1].

    Example:
        >>> rgb, alpha, layout = unpack(np.zeros((4, 5), np.uint8), "image")
        >>> rgb.shape, alpha is None
        (torch.Size([1, 3, 4, 5]), True)
    """
    if isinstance(image, Tensor):
        values, device = image.detach(), image.device
        at = 0
    elif isinstance(image, np.ndarray):
        device, at = None, 2
    else:
        raise InputError(f"{name} must be a numpy array or a torch tensor, got {type(image).__name__}")
    shape = tuple(image.shape)
    channels = 1 if len(shape) == 2 else shape[at] if len(shape) == 3 else 0
    if channels not in (1, 3, 4):
        kinds = "({0}), ({1}), ({2}) or (H, W)"
        wanted = kinds.format(*(f"H, W, {c}" if device is None else f"{c}, H, W" for c in (3, 4, 1)))
        raise InputError(f"{name} must have the shape {wanted}, got {shape}")
    if 0 in shape:
        raise InputError(f"{name} has no pixels: its shape is {shape}")
    if isinstance(image, np.ndarray):
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise InputError(f"{name} must be uint8, uint16 or float32, got {image.dtype}")
        # torch knows little of uint16; int32 holds it.
        plain = image.astype(np.int32) if image.dtype == np.uint16 else np.ascontiguousarray(image)
        if plain.dtype == image.dtype and not plain.flags.writeable:
            plain = plain.copy()
        values = torch.from_numpy(plain)
        values = values[..., None] if values.ndim == 2 else values
        values = values.permute(2, 0, 1)
    elif image.dtype not in (torch.uint8, torch.uint16, *_FLOATS):
        raise InputError(f"{name} must be uint8, uint16 or floating point, got {image.dtype}")
    values = (values[None] if values.ndim == 2 else values)[None]
    unit = values.to(torch.float32)
    top = _top(image.dtype)
    if top is None:
        low, high = unit.aminmax()
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InputError(f"{name} holds values that are not finite (NaN or infinity)")
        if low < -0.01 or high > 1.01:
            raise InputError(f"{name} must lie in [0, 1] as floating point, got {float(low):.4g} to {float(high):.4g}")
        unit = unit.clamp(0, 1)
    else:
        unit = unit / top
    rgb = unit[:, :3].expand(-1, 3, -1, -1) if channels == 1 else unit[:, :3]
    alpha = unit[:, 3:] if channels == 4 else None
    return rgb.contiguous(), alpha, Layout(shape, image.dtype, device, channels)


def pack(rgb: Tensor, alpha: Tensor | None, layout: Layout) -> Image:
    """Put an enlarged picture into the form that its source had.

    Args:
        rgb: ``(1, 3, sH, sW)``, floating point; clipped to [0, 1].
        alpha: the source's alpha ``(1, 1, H, W)`` or None; enlarged by cubic convolution.
        layout: of the source.

    Returns:
        An array or tensor of the source's dtype and number of channels; integers are rounded to nearest.

    Example:
        >>> rgb, alpha, layout = unpack(np.zeros((4, 5, 4), np.uint16), "image")
        >>> pack(torch.rand(1, 3, 8, 10), alpha, layout).shape
        (8, 10, 4)
    """
    values = rgb.float()
    if layout.channels == 1:
        values = values.mean(1, keepdim=True)
    elif alpha is not None:
        alpha = resize(alpha.to(values.device), size=(values.shape[2], values.shape[3]))
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
