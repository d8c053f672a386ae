"""What the tiles of a burst share: one shift to begin with, one smooth motion of the whole picture in the end."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def global_shift(base: Tensor, frame: Tensor) -> Tensor:
    """Find the shift of a whole picture by phase correlation.

    Source: C. Kuglin and D. Hines, "The phase correlation image alignment method", 1975. The peaks that stand out are
    compared on the pictures themselves, beside no shift at all.

    Args:
        base: ``(1, 1, H, W)``.
        frame: of the same shape.

    Returns:
        ``(2,)``, x and y in whole pixels, from base to frame.

    Example:
        >>> x = torch.rand(1, 1, 40, 60)
        >>> global_shift(x, x.roll((3, -5), (2, 3)))
        tensor([-5.,  3.])
    """
    height, width = base.shape[2:]
    window = torch.hann_window(height, False, device=base.device)[:, None] * torch.hann_window(
        width, False, device=base.device
    )
    spectra = [torch.fft.rfft2((x - x.mean()) * window) for x in (base, frame)]
    cross = spectra[1] * spectra[0].conj()
    surface = torch.fft.irfft2(cross / (cross.abs() + 1e-3 * cross.abs().mean() + 1e-12), s=(height, width))[0, 0]
    local = (surface == F.max_pool2d(surface[None, None], 3, 1, 1)[0, 0]) * surface
    peaks = local.flatten().topk(min(8, local.numel())).indices.tolist()
    candidates = [(0, 0)]
    for peak in peaks:
        y, x = peak // width, peak % width
        candidates.append((x - width if x > width // 2 else x, y - height if y > height // 2 else y))
    best, least = (0, 0), float("inf")
    for x, y in candidates:
        # Beyond half of the picture too little is left to compare.
        if abs(x) > width // 2 or abs(y) > height // 2:
            continue
        ours = base[..., max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
        theirs = frame[..., max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
        cost = float((ours - theirs).abs().mean())
        if cost < least:
            best, least = (x, y), cost
    return torch.tensor(best, device=base.device, dtype=torch.float32)


def smooth_motion(flow: Tensor, information: Tensor) -> Tensor:
    """Draw the motion of tiles towards the smooth motion of the whole picture, as far as they do not know better.

    A camera that shakes moves the picture by nearly a polynomial of low degree. It is fitted to the tiles robustly
    (Geman-McClure weights); how far tiles that know their motion well lie from it, says how much it is worth. Then each
    tile takes the mean of both, weighted by what each is worth. A tile that contradicts clearly moves by itself.

    Args:
        flow: ``(1, 2, h, w)`` in pixels.
        information: ``(1, 3, h, w)``: xx, xy, yy of the inverse covariance of ``flow``.

    Returns:
        ``(1, 2, h, w)``.

    Example:
        >>> smooth_motion(torch.full((1, 2, 6, 8), 1.5), torch.ones(1, 3, 6, 8))[0, 0, 0, 0]
        tensor(1.5000)
    """
    rows, columns = flow.shape[2:]
    axes = [torch.linspace(-1.0 if n > 1 else 0.0, 1.0, n, device=flow.device) for n in (rows, columns)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    terms = [torch.ones_like(x)]
    if min(rows, columns) >= 3:
        terms += [x, y]
    if min(rows, columns) >= 6:
        terms += [x * x, x * y, y * y]
    basis = torch.stack(terms, dim=2).reshape(-1, len(terms)).double()
    values = flow[0].permute(1, 2, 0).reshape(-1, 2).double()
    xx, xy, yy = information[0].flatten(1).double()
    # The least that a tile knows about any direction; more than a hundredth of a pixel no tile is believed to know.
    least = (xx + yy) / 2 - ((xx - yy).square() / 4 + xy * xy).sqrt()
    known = least.clamp(1e-6, 1e4)
    ridge = 1e-6 * torch.eye(len(terms), device=flow.device, dtype=torch.float64)
    weight = known.clone()
    for step in range(12):
        weighted = basis * (weight / weight.sum())[:, None]
        motion = torch.linalg.solve(weighted.T @ basis + ridge, weighted.T @ values)
        distance = (basis @ motion - values).square().sum(dim=1)
        tolerance = max(0.25, 4.0 * 0.7**step)
        weight = known / (1.0 + distance / tolerance**2) ** 2
    fit = basis @ motion
    away = (fit - values).square().sum(dim=1)
    sure = known >= torch.quantile(known, 0.5)
    spread = (away[sure].median() / 1.4 - (1.0 / known[sure]).median()).clamp(min=2.5e-4)
    difference = values - fit
    # (I + P)^-1 I (v - fit): P is what the fit is worth. Where the two contradict, it is worth nothing.
    ix, iy = xx * difference[:, 0] + xy * difference[:, 1], xy * difference[:, 0] + yy * difference[:, 1]
    contradiction = ix * difference[:, 0] + iy * difference[:, 1]
    surprise = torch.minimum(contradiction, away / spread)
    worth = 1.0 / spread / (1.0 + (surprise / 16.0) ** 2)
    a, b = xx + worth, yy + worth
    determinant = a * b - xy * xy
    moved = torch.stack([(b * ix - xy * iy) / determinant, (a * iy - xy * ix) / determinant], dim=1)
    return (fit + moved).float().view(rows, columns, 2).permute(2, 0, 1)[None]
