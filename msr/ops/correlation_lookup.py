"""correlation_lookup: how alike each pixel of one feature map is to the surroundings of a place in another."""

import torch
import torch.nn.functional as F
from torch import Tensor

from msr.ops._arguments import check_whole
from msr.ops._determinism import must_repeat
from msr.ops._layout import empty_like
from msr.ops._transforms import autocast_dtype, by_reference

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def correlation_lookup(a: Tensor, b: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Compare each pixel of `a` with `b` around `coords`: `out[:, (dy + r) (2r + 1) + dx + r, i, j]` is the mean over c
    of `a[:, c, i, j]` times `b[:, c]` at `(coords[:, 0, i, j] + dx, coords[:, 1, i, j] + dy)`, dy and dx from -r to r.

    Source: the lookup of RAFT (Teed and Deng, ECCV 2020, arXiv:2003.12039), as its authors' alternative to the volume
    of all pairs: nothing of the size `(H W)^2` is made. RAFT divides by the square root of C where the mean divides by
    C, and lets the first of its two shifts run along x.

    Args:
        a: `(B, C, H, W)`, float16, bfloat16, float32 or float64; any range.
        b: `(B, C, Hb, Wb)` of the same dtype, of any size (a level of a pyramid); bilinear between its pixels and 0
            outside of them.
        coords: `(B, 2, H, W)` in pixels of `b`, channel 0 = x (right), channel 1 = y (down); pixel centres are at
            integers. Any of the dtypes above.
        radius: r, of the square of shifts, 0 or more.

    Returns:
        `(B, (2r + 1)^2, H, W)` with the dtype and memory format of `a` (0 where there are no channels). Positions and
        sums are float32, or float64 where `a` is. Under autocast `a` and `b` take its dtype, `coords` keeps its own. At
        a NaN or infinite coordinate all is 0, as is its gradient. Differentiable once, in `a`, `b` and `coords`. On
        the CPU features in NCHW are first copied to channels_last; on a GPU, and where they lie so, nothing is copied.

    Raises:
        ValueError: shapes, dtypes, devices or numbers that do not fit.

    Example:
        >>> import torch
        >>> from msr.ops import correlation_lookup
        >>> b = torch.tensor([2.0, 4.0, 6.0]).view(1, 1, 1, 3)
        >>> correlation_lookup(torch.ones(1, 1, 1, 1), b, torch.tensor([0.5, 0.0]).view(1, 2, 1, 1), 1)[0, 3:6, 0, 0]
        tensor([1., 3., 5.])
    """
    dtype = autocast_dtype(a)
    if dtype is not None and torch.float64 not in (a.dtype, b.dtype):
        a, b = a.to(dtype), b.to(dtype)
    _check(a, b, coords, radius)
    if by_reference(a, b, coords):
        return correlation_lookup_reference(a, b, coords, radius)
    return torch.ops.msr.correlation_lookup.default(a, b, coords, radius)


def correlation_lookup_reference(a: Tensor, b: Tensor, coords: Tensor, radius: int) -> Tensor:
    """Compute `correlation_lookup` in plain PyTorch: the op's definition, and what runs where there is no kernel."""
    _check(a, b, coords, radius)
    batch, channels, height, width = a.shape
    compute = torch.float64 if a.dtype == torch.float64 else torch.float32
    side = 2 * radius + 1
    shape = (batch, side * side, height, width)
    if 0 in (*a.shape, *b.shape):
        return torch.zeros_like(empty_like(a, shape))
    with torch.autocast(a.device.type, enabled=False):  # sums stay in the precision chosen above
        coords = coords.to(compute)
        left, across = _place(coords[:, 0], b.shape[3], radius)
        top, down = _place(coords[:, 1], b.shape[2], radius)
        # All shifts share the fraction of a pixel: products at (2r + 2)^2 whole places, then mixed. Row by row of them,
        # so that no more than 2r + 2 times `a` is gathered at once.
        nothing = b.shape[2] * b.shape[3]  # where the zero behind the last pixel is
        source = F.pad(b.to(compute).flatten(2), (0, 1))
        steps = torch.arange(-radius, radius + 2, device=a.device)
        columns = left.flatten(1)[..., None] + steps  # (B, H W, 2r + 2)
        rows = []
        for step in range(-radius, radius + 2):
            row = top.flatten(1)[..., None] + step
            inside = (columns >= 0) & (columns < b.shape[3]) & (row >= 0) & (row < b.shape[2])
            place = torch.where(inside, row * b.shape[3] + columns, nothing).flatten(1)
            values = source.gather(2, place[:, None].expand(-1, channels, -1)).unflatten(2, (-1, side + 1))
            rows.append((values * a.to(compute).flatten(2)[..., None]).sum(1))
        whole = torch.stack(rows, 2) / channels  # (B, H W, 2r + 2 rows, 2r + 2 columns)
        across, down = across.flatten(1)[..., None, None], down.flatten(1)[..., None, None]
        mixed = whole[..., :-1] * (1 - across) + whole[..., 1:] * across
        mixed = mixed[..., :-1, :] * (1 - down) + mixed[..., 1:, :] * down
    return empty_like(a, shape).copy_(mixed.flatten(2).transpose(1, 2).unflatten(2, (height, width)))


def _place(position: Tensor, size: int, radius: int) -> tuple[Tensor, Tensor]:
    """Return the whole pixel at or before each position, and the fraction beyond it."""
    # So far outside no shift reaches the image: further out, and NaN, is the same as there.
    low, high = -radius - 2.0, size + radius + 1.0
    position = position.nan_to_num(nan=low, posinf=high, neginf=low).clamp(low, high)
    first = position.detach().floor()
    return first.long(), position - first


def correlation_lookup_backward_reference(
    grad: Tensor, a: Tensor, b: Tensor, coords: Tensor, radius: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients for `a`, `b` and `coords` from that of the output."""

    def forward(a: Tensor, b: Tensor, coords: Tensor) -> Tensor:
        return correlation_lookup_reference(a, b, coords, radius)

    _, backward, *_ = torch.func.vjp(forward, a, b, coords)
    grad_a, grad_b, grad_coords = backward(grad)
    return (
        empty_like(a, tuple(a.shape)).copy_(grad_a),
        empty_like(b, tuple(b.shape)).copy_(grad_b),
        grad_coords.contiguous(),
    )


def _check(a: Tensor, b: Tensor, coords: Tensor, radius: int) -> None:
    if a.dim() != 4 or b.dim() != 4 or a.shape[:2] != b.shape[:2] or coords.shape != (a.shape[0], 2, *a.shape[2:]):
        rule = "a (B, C, H, W), b (B, C, Hb, Wb) and coords (B, 2, H, W)"
        raise ValueError(f"correlation_lookup needs {rule}; {_got(a, b, coords)}")
    if a.dtype not in _FLOATS or b.dtype != a.dtype or coords.dtype not in _FLOATS:
        rule = "floating-point a and b of one dtype, and floating-point coords"
        raise ValueError(f"correlation_lookup needs {rule}; {_got(a, b, coords)}")
    if b.device != a.device or coords.device != a.device:
        raise ValueError(f"correlation_lookup needs tensors on one device; {_got(a, b, coords)}")
    check_whole("correlation_lookup", radius=radius)
    if radius < 0:
        raise ValueError(f"correlation_lookup needs a radius of 0 or more; got {radius}")


def _got(a: Tensor, b: Tensor, coords: Tensor) -> str:
    named = {"a": a, "b": b, "coords": coords}
    return "got " + ", ".join(f"{name} {tuple(t.shape)} {t.dtype} on {t.device}" for name, t in named.items())


_op = torch.library.custom_op("msr::correlation_lookup", correlation_lookup_reference, mutates_args=())
_backward_op = torch.library.custom_op(
    "msr::correlation_lookup_backward", correlation_lookup_backward_reference, mutates_args=()
)


@_op.register_fake
def _(a: Tensor, b: Tensor, coords: Tensor, radius: int) -> Tensor:
    return empty_like(a, (a.shape[0], (2 * radius + 1) ** 2, a.shape[2], a.shape[3]))


@_backward_op.register_fake
def _(grad: Tensor, a: Tensor, b: Tensor, coords: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    grad_coords = torch.empty(coords.shape, dtype=coords.dtype, device=coords.device)
    return empty_like(a, tuple(a.shape)), empty_like(b, tuple(b.shape)), grad_coords


def _setup_context(ctx, inputs, output) -> None:
    a, b, coords, ctx.radius = inputs
    ctx.save_for_backward(a, b, coords)


def _backward(ctx, grad: Tensor):
    # The backward op has no gradient of its own: differentiating twice raises instead of returning zeros.
    a, b, coords = ctx.saved_tensors
    must = must_repeat(grad)
    backward = correlation_lookup_backward_reference if must else torch.ops.msr.correlation_lookup_backward.default
    grads = backward(grad, a, b, coords, ctx.radius)
    needed = [value if need else None for value, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*needed, None)


_op.register_autograd(_backward, setup_context=_setup_context)
