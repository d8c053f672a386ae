"""kernel_merge: frames gathered on a finer grid by anisotropic Gaussian kernels, as handheld super-resolution does."""

import math

import torch
from torch import Tensor

from msr.ops._transforms import by_reference

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOSAICS = ("rggb", "bggr", "grbg", "gbrg")
MAX_CHANNELS = 4


def kernel_merge(
    frames: Tensor,
    positions: Tensor,
    covariance: Tensor,
    weights: Tensor,
    scale: float,
    *,
    mosaic: str | None = None,
    radius: int = 1,
) -> tuple[Tensor, Tensor]:
    """Merge N aligned frames into one picture on a grid `scale` times as fine.

    Source: B. Wronski et al., "Handheld Multi-Frame Super-Resolution", ACM Transactions on Graphics 38(4), 2019,
    arXiv:1905.03277, section 5. A pixel of the result lies at a place of the base grid, and there in every frame at a
    position; the pixels of that frame around it count by `weights` times `exp(-d' C^-1 d / 2)`, where d is their
    distance from the position and C the covariance; 0 where the exponential is below the smallest normal number.

    Args:
        frames: `(B, N, C, H, W)`, C from 1 to 4, float16, bfloat16, float32 or float64; any range.
        positions: `(B, N, 2, Hb, Wb)` in pixels: where each pixel of the base grid lies in frame n, x then y; pixel
            centres are at whole numbers. As are the next two, it is read bilinearly between the pixels of that grid.
        covariance: `(B, N, 3, Hb, Wb)` in square pixels: the entries xx, xy, yy of C, which must be positive definite:
            elsewhere a frame does not count.
        weights: `(B, N, 1, Hb, Wb)`, how far frame n is to be trusted there; 0 and more.
        scale: enlargement, a number from 1 to 4.
        mosaic: None, or the colours of the first 2x2 pixels of frames of one channel, row by row: "rggb", "bggr",
            "grbg" or "gbrg"; then the result has the channels red, green and blue.
        radius: pixels around the nearest one that are looked at, 1 to 4.

    Returns:
        image: `(B, C, ceil(scale Hb), ceil(scale Wb))` with the dtype of `frames`, the weighted mean; 0 where nothing
            counts. Pixel (i, j) lies at `((i + 1/2) / scale - 1/2, ..)` of the base grid; beyond its border the grid
            goes on as it ends there. Sums are float32, or float64 where `frames` is.
        weight: of the same shape, what the mean was divided by, with the dtype of the sums. Both are differentiable
            once, in all four tensors. Frames at NaN or infinite positions do not count.

    Raises:
        ValueError: shapes, dtypes, devices or numbers that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import kernel_merge
        >>> y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        >>> positions = torch.stack([x, y]).view(1, 1, 2, 4, 4)
        >>> covariance = torch.tensor([0.25, 0.0, 0.25]).view(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4)
        >>> image, weight = kernel_merge(x.view(1, 1, 1, 4, 4), positions, covariance, torch.ones(1, 1, 1, 4, 4), 2)
        >>> image.shape
        torch.Size([1, 1, 8, 8])
    """
    _check(frames, positions, covariance, weights, scale, mosaic, radius)
    if by_reference(frames, positions, covariance, weights):
        return _forward(frames, positions, covariance, weights, scale, mosaic or "", radius)
    return torch.ops.msr.kernel_merge.default(
        frames, positions, covariance, weights, float(scale), mosaic or "", radius
    )


def kernel_merge_reference(
    frames: Tensor,
    positions: Tensor,
    covariance: Tensor,
    weights: Tensor,
    scale: float,
    *,
    mosaic: str | None = None,
    radius: int = 1,
) -> tuple[Tensor, Tensor]:
    """Compute `kernel_merge` in plain PyTorch: the definition of the op, and what runs where there is no kernel."""
    _check(frames, positions, covariance, weights, scale, mosaic, radius)
    return _forward(frames, positions, covariance, weights, scale, mosaic or "", radius)


def _size(guide: Tensor, scale: float) -> tuple[int, int]:
    return math.ceil(guide.shape[3] * scale), math.ceil(guide.shape[4] * scale)


def _spread(guide: Tensor, scale: float) -> Tensor:
    """Read `guide (B, N, K, Hb, Wb)` bilinearly at the pixels of the result: `(B, N, K, Ho, Wo)`."""
    for dim, size in ((3, _size(guide, scale)[0]), (4, _size(guide, scale)[1])):
        length = guide.shape[dim]
        place = (torch.arange(size, device=guide.device, dtype=guide.dtype) + 0.5) / scale - 0.5
        place = place.clamp(0, length - 1)
        low = place.floor()
        part = (place - low).view(-1, *[1] * (4 - dim))
        first = low.to(torch.int64)
        second = (first + 1).clamp(max=length - 1)
        guide = guide.index_select(dim, first) * (1 - part) + guide.index_select(dim, second) * part
    return guide


def _forward(
    frames: Tensor, positions: Tensor, covariance: Tensor, weights: Tensor, scale: float, mosaic: str, radius: int
) -> tuple[Tensor, Tensor]:
    compute = torch.float64 if frames.dtype == torch.float64 else torch.float32
    batch, count, channels, height, width = frames.shape
    out_channels, size = 3 if mosaic else channels, _size(positions, scale)
    total = torch.zeros((batch, out_channels, *size), device=frames.device, dtype=compute)
    weight = torch.zeros_like(total)
    if min(count, height, width, *size) > 0:
        where, spread, trust = (_spread(t.to(compute), scale) for t in (positions, covariance, weights))
        for n in range(count):
            one, mass = _one_frame(frames[:, n].to(compute), where[:, n], spread[:, n], trust[:, n], mosaic, radius)
            total, weight = total + one, weight + mass
    counts = weight > 0
    image = torch.where(counts, total / torch.where(counts, weight, 1), 0)
    return image.to(frames.dtype), weight


def _one_frame(
    frame: Tensor, where: Tensor, spread: Tensor, trust: Tensor, mosaic: str, radius: int
) -> tuple[Tensor, Tensor]:
    """Return a frame's part of the sum of values and of the sum of weights, `(B, C, Ho, Wo)` both."""
    batch, channels, height, width = frame.shape
    x, y = where[:, 0], where[:, 1]
    # False for NaN, too. Positions out of reach become 0, so that no index and no derivative ever sees them.
    near = (x > -radius - 1) & (x < width + radius) & (y > -radius - 1) & (y < height + radius)
    xx, xy, yy = spread.unbind(1)
    determinant = xx * yy - xy * xy
    near = near & (xx > 0) & (determinant > 0) & torch.isfinite(determinant) & (trust[:, 0] > 0)
    x, y = torch.where(near, x, 0), torch.where(near, y, 0)
    xx, yy, determinant = (torch.where(near, t, 1) for t in (xx, yy, determinant))
    xy = torch.where(near, xy, 0)
    strength = torch.where(near, trust[:, 0], 0)
    column, row = x.round(), y.round()
    source = frame.flatten(2)
    out_channels = 3 if mosaic else channels
    total = torch.zeros((batch, out_channels, *x.shape[1:]), device=frame.device, dtype=frame.dtype)
    weight = torch.zeros_like(total)
    for dv in range(-radius, radius + 1):
        for du in range(-radius, radius + 1):
            v, u = row + dv, column + du
            inside = near & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            dx, dy = u - x, v - y
            distance = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / determinant
            near_it = torch.exp(-0.5 * distance)
            near_it = torch.where(near_it < torch.finfo(near_it.dtype).tiny, 0, near_it)
            mass = torch.where(inside, strength * near_it, 0)[:, None]
            v, u = v.clamp(0, height - 1).to(torch.int64), u.clamp(0, width - 1).to(torch.int64)
            place = (v * width + u).flatten(1)[:, None].expand(-1, channels, -1)
            value = torch.where(inside[:, None], source.gather(2, place).unflatten(2, x.shape[1:]), 0)
            if mosaic:
                colour = _colours(mosaic, frame.device)[v % 2, u % 2]
                mass = torch.where(colour[:, None] == torch.arange(3, device=frame.device).view(3, 1, 1), mass, 0)
            total, weight = total + mass * value, weight + mass.expand_as(total)
    return total, weight


def _colours(mosaic: str, device: torch.device) -> Tensor:
    """The channel of each pixel of the pattern, `(2, 2)`."""
    return torch.tensor(["rgb".index(letter) for letter in mosaic], device=device).view(2, 2)


def kernel_merge_backward_reference(
    grad_image: Tensor,
    grad_weight: Tensor,
    frames: Tensor,
    positions: Tensor,
    covariance: Tensor,
    weights: Tensor,
    scale: float,
    mosaic: str,
    radius: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of frames, positions, covariance and weights from those of image and weight."""

    def forward(frames: Tensor, positions: Tensor, covariance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return _forward(frames, positions, covariance, weights, scale, mosaic, radius)

    with torch.autocast(frames.device.type, enabled=False):
        _, backward, *_ = torch.func.vjp(forward, frames, positions, covariance, weights)
        first, second, third, fourth = backward((grad_image, grad_weight))
    return first.contiguous(), second.contiguous(), third.contiguous(), fourth.contiguous()


def _check(
    frames: Tensor,
    positions: Tensor,
    covariance: Tensor,
    weights: Tensor,
    scale: float,
    mosaic: str | None,
    radius: int,
) -> None:
    """Raise ValueError where the arguments do not fit together."""
    given = {"frames": frames, "positions": positions, "covariance": covariance, "weights": weights}

    def require(condition: bool, rule: str) -> None:
        if not condition:
            got = ", ".join(f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in given.items())
            raise ValueError(f"kernel_merge needs {rule}; got {got}, scale {scale}, mosaic {mosaic}, radius {radius}")

    require(all(t.dtype in FLOATS and t.device == frames.device for t in given.values()), "floats on one device")
    require(all(t.dim() == 5 for t in given.values()), "tensors of 5 dimensions")
    require(1 <= frames.shape[2] <= MAX_CHANNELS, f"frames (B, N, C, H, W) with 1 to {MAX_CHANNELS} channels")
    grid = positions.shape[3:]
    for name, entries in (("positions", 2), ("covariance", 3), ("weights", 1)):
        shape = (*frames.shape[:2], entries, *grid)
        require(given[name].shape == shape, f"{name} (B, N, {entries}, Hb, Wb)")
    require(1 <= scale <= 4, "a scale from 1 to 4")
    require(mosaic is None or mosaic in MOSAICS, f"a mosaic of {', '.join(MOSAICS)} or None")
    require(mosaic is None or frames.shape[2] == 1, "frames of one channel for a mosaic")
    require(isinstance(radius, int) and 1 <= radius <= 4, "a radius from 1 to 4")


_op = torch.library.custom_op("msr::kernel_merge", _forward, mutates_args=())
_backward_op = torch.library.custom_op("msr::kernel_merge_backward", kernel_merge_backward_reference, mutates_args=())


@_op.register_fake
def _(
    frames: Tensor, positions: Tensor, covariance: Tensor, weights: Tensor, scale: float, mosaic: str, radius: int
) -> tuple[Tensor, Tensor]:
    shape = (frames.shape[0], 3 if mosaic else frames.shape[2], *_size(positions, scale))
    compute = torch.float64 if frames.dtype == torch.float64 else torch.float32
    return frames.new_empty(shape), frames.new_empty(shape, dtype=compute)


@_backward_op.register_fake
def _(
    grad_image: Tensor,
    grad_weight: Tensor,
    frames: Tensor,
    positions: Tensor,
    covariance: Tensor,
    weights: Tensor,
    scale: float,
    mosaic: str,
    radius: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        frames.new_empty(frames.shape),
        positions.new_empty(positions.shape),
        covariance.new_empty(covariance.shape),
        weights.new_empty(weights.shape),
    )


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.scale, ctx.mosaic, ctx.radius = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_image: Tensor, grad_weight: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    settings = ctx.scale, ctx.mosaic, ctx.radius
    grads = torch.ops.msr.kernel_merge_backward.default(grad_image, grad_weight, *ctx.saved_tensors, *settings)
    needed = [value if need else None for value, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None, None, None)


_op.register_autograd(_backward, setup_context=_setup_context)
