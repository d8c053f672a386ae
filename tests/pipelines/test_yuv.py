"""Planes to RGB and back: exact round trips, the recommendations' equations, swscale."""

import dataclasses
import itertools
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from msr.errors import InputError
from msr.io import open_clip
from msr.pipelines import yuv
from msr.pipelines.yuv import LUMA, POSITIONS, from_rgb, to_rgb

# Cb = (B' - Y') / d and Cr = (R' - Y') / d as the recommendations print their luma weights and divisors.
EQUATIONS = {
    1: (0.2126, 0.7152, 0.0722, 1.8556, 1.5748),  # BT.709, part 1, items 3.2 and 3.3
    5: (0.299, 0.587, 0.114, 1.772, 1.402),  # BT.601, section 2.5
    9: (0.2627, 0.6780, 0.0593, 1.8814, 1.4746),  # BT.2020, table 4
    7: (0.212, 0.701, 0.087, 1.826, 1.576),  # SMPTE 240M
}
SIZES = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (5, 4), (4, 5), (33, 19)]


@dataclasses.dataclass(frozen=True)
class Pixels:
    bits: int = 8
    chroma_x: int = 1
    chroma_y: int = 1
    kind: str = "yuv"


@dataclasses.dataclass(frozen=True)
class Clip:
    width: int
    height: int
    pixels: Pixels = Pixels()
    matrix_used: int = 1
    full_range: bool = False
    chroma_location: str = "left"


def random_planes(clip: Clip, seed: int = 0) -> list[torch.Tensor]:
    """Every code of the depth is as likely as any other."""
    generator = torch.Generator().manual_seed(seed)
    pixels = clip.pixels
    chroma = -(-clip.height // 2**pixels.chroma_y), -(-clip.width // 2**pixels.chroma_x)
    shapes = [(clip.height, clip.width)]
    shapes += {"yuv": [chroma] * 2, "gray": [], "rgb": shapes * 2}[pixels.kind]
    dtype = torch.uint8 if pixels.bits == 8 else torch.uint16
    return [torch.randint(0, 2**pixels.bits, shape, generator=generator).to(dtype) for shape in shapes]


def assert_same(planes: list[torch.Tensor], wanted: list[torch.Tensor], what: object) -> None:
    assert [plane.dtype for plane in planes] == [plane.dtype for plane in wanted], what
    for plane, expected in zip(planes, wanted, strict=True):
        assert plane.is_contiguous()
        # As arrays: torch compares few kinds of uint16.
        np.testing.assert_array_equal(plane.numpy(), expected.numpy(), err_msg=str(what))


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("band", [2, 64, yuv.BAND])
def test_planes_come_back_exactly(bits: int, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "BAND", band)
    subsamplings = [(1, 1), (1, 0), (0, 1), (0, 0)]
    choices = itertools.product(SIZES, subsamplings, POSITIONS, (False, True))
    matrices = itertools.cycle(LUMA)
    for seed, ((width, height), (x, y), location, full) in enumerate(choices):
        clip = Clip(width, height, Pixels(bits, x, y), next(matrices), full, location)
        planes = random_planes(clip, seed)
        assert_same(from_rgb(to_rgb(planes, clip), clip), planes, clip)


@pytest.mark.parametrize("kind", ["gray", "rgb"])
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_gray_and_rgb_planes_come_back_exactly(kind: str, bits: int) -> None:
    for (width, height), full, matrix in itertools.product(SIZES, (False, True), LUMA):
        clip = Clip(width, height, Pixels(bits, 0, 0, kind), matrix, full)
        planes = random_planes(clip)
        rgb = to_rgb(planes, clip)
        assert_same(from_rgb(rgb, clip), planes, clip)
        if kind == "rgb":
            torch.testing.assert_close(rgb[0, 0], planes[0].float() / (2**bits - 1))
        else:
            assert torch.equal(rgb[0, 0], rgb[0, 1])
            assert torch.equal(rgb[0, 0], rgb[0, 2])


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
def test_every_pair_of_luma_and_chroma_codes_comes_back(matrix: int) -> None:
    luma, chroma = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for full in (False, True):
        clip = Clip(256, 256, Pixels(8, 0, 0), matrix, full)
        planes = [plane.to(torch.uint8).contiguous() for plane in (luma, chroma, (chroma * 37 + luma * 11) % 256)]
        assert_same(from_rgb(to_rgb(planes, clip), clip), planes, clip)


@pytest.mark.parametrize("matrix", EQUATIONS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("full", [False, True])
def test_codes_are_those_of_the_recommendations(matrix: int, bits: int, full: bool) -> None:
    clip = Clip(61, 47, Pixels(bits, 0, 0), matrix, full)
    rgb = torch.rand((1, 3, 47, 61), generator=torch.Generator().manual_seed(1))
    red, green, blue = rgb[0].double().numpy()
    r, g, b, blue_divisor, red_divisor = EQUATIONS[matrix]
    y = r * red + g * green + b * blue
    analog = y, (blue - y) / blue_divisor, (red - y) / red_divisor
    if full:  # H.273, equations 23 to 25
        wanted = [analog[0] * (2**bits - 1), *(c * (2**bits - 1) + 2 ** (bits - 1) for c in analog[1:])]
    else:
        wanted = [(219 * analog[0] + 16) * 2 ** (bits - 8), *((224 * c + 128) * 2 ** (bits - 8) for c in analog[1:])]
    for plane, expected in zip(from_rgb(rgb, clip), wanted, strict=True):
        # Half a code of rounding, and what float32 loses of 65535 codes; the divisors are printed with four decimals.
        assert np.abs(plane.numpy() - expected.clip(0, 2**bits - 1)).max() <= 0.5 + 2**bits * 4e-6
    rounded = [torch.from_numpy(np.floor(plane + 0.5).clip(0, 2**bits - 1)).int() for plane in wanted]
    assert (to_rgb(rounded, clip) - rgb).abs().max() < 2 / (200 * 2 ** (bits - 8))


def test_known_colours() -> None:
    """100 % colour bars of BT.709 at 8 and of BT.2020 at 10 bits, limited range."""
    bars = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    rgb = bars.T[None, :, None]
    codes = [plane.tolist()[0] for plane in from_rgb(rgb, Clip(8, 1, Pixels(8, 0, 0)))]
    assert codes[0] == [235, 219, 188, 173, 78, 63, 32, 16]
    assert codes[1] == [128, 16, 154, 42, 214, 102, 240, 128]
    assert codes[2] == [128, 138, 16, 26, 230, 240, 118, 128]
    codes = [plane.tolist()[0] for plane in from_rgb(rgb, Clip(8, 1, Pixels(10, 0, 0), 9))]
    assert codes[0] == [940, 888, 710, 658, 346, 294, 116, 64]


@pytest.mark.parametrize("location", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
@pytest.mark.parametrize(("width", "height"), [(8, 6), (7, 5), (1, 3), (2, 2)])
def test_chroma_is_interpolated_at_its_location(location: str, width: int, height: int) -> None:
    clip = Clip(width, height, Pixels(10), 5, True, location)
    planes = random_planes(clip)
    planes[0].fill_(512)
    # What a chroma sample adds to red, found where there is nothing to interpolate.
    even = Clip(*reversed(planes[2].shape), Pixels(10, 0, 0), 5, True)
    red = to_rgb([torch.full(planes[2].shape, 512), *planes[1:]], even)[0, 0].double().numpy()
    x = {"left": 0, "center": 0.5, "topleft": 0, "top": 0.5, "bottomleft": 0, "bottom": 0.5}[location]
    y = {"left": 0.5, "center": 0.5, "topleft": 0, "top": 0, "bottomleft": 1, "bottom": 1}[location]
    columns, rows = (np.arange(width) - x) / 2, (np.arange(height) - y) / 2
    wide = np.stack([np.interp(columns, np.arange(red.shape[1]), row) for row in red])
    wanted = np.stack([np.interp(rows, np.arange(red.shape[0]), column) for column in wide.T], axis=1)
    np.testing.assert_allclose(to_rgb(planes, clip)[0, 0].numpy(), wanted, atol=1e-5)


def test_bands_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = torch.rand((1, 3, 39, 21), generator=torch.Generator().manual_seed(2))
    for location in POSITIONS:
        clip = Clip(21, 39, Pixels(16), chroma_location=location)
        monkeypatch.setattr(yuv, "BAND", 1 << 21)
        whole = from_rgb(rgb, clip)
        back = to_rgb(whole, clip)
        for band in (42, 84, 210):
            monkeypatch.setattr(yuv, "BAND", band)
            assert_same(from_rgb(rgb, clip), whole, (location, band))
            assert torch.equal(to_rgb(whole, clip), back)


SWSCALE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
SPACES = {1: Colorspace.ITU709, 5: Colorspace.ITU601, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}


def smooth_rgb(width: int, height: int) -> torch.Tensor:
    x, y = torch.meshgrid(torch.linspace(0, 3, width), torch.linspace(0, 2, height), indexing="xy")
    return torch.stack((0.5 + 0.4 * torch.sin(x), 0.5 + 0.4 * torch.cos(y + x), 0.5 + 0.4 * torch.sin(y)))[None]


@pytest.mark.parametrize("matrix", SPACES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("name", "x", "y"), [("yuv444p", 0, 0), ("yuv422p", 1, 0), ("yuv420p", 1, 1)])
def test_swscale_agrees(matrix: int, full: bool, name: str, x: int, y: int) -> None:
    """Within 1.5 of 255 levels in RGB on a smooth picture (swscale rounds more than once), edges aside.

    Called through PyAV it takes all chroma to lie in the centre.
    """
    width, height = 160, 96
    clip = Clip(width, height, Pixels(8, x, y), matrix, full, "center")
    rgb = smooth_rgb(width, height)
    planes = from_rgb(rgb, clip)
    frame = av.VideoFrame(width, height, name)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        rows[:, : values.shape[1]] = values.numpy()
    ranges = {"src_color_range": ColorRange.JPEG if full else ColorRange.MPEG, "dst_color_range": ColorRange.JPEG}
    theirs = frame.reformat(format="rgb24", src_colorspace=SPACES[matrix], interpolation=SWSCALE, **ranges).to_ndarray()
    ours = 255 * to_rgb(planes, clip)[0].permute(1, 2, 0).numpy()
    middle = slice(4, -4)
    assert np.abs(ours - theirs)[middle, middle].max() <= 1.5
    assert np.abs(theirs[middle, middle] - 255 * rgb[0].permute(1, 2, 0).numpy()[middle, middle]).max() <= 3.5


@pytest.mark.parametrize("name", ["plain", "pq", "601", "709", "full", "centred", "top-left", "422", "444", "gray",
                                  "rgb", "prores", "odd", "odd-vp9"])  # fmt: skip
def test_frames_of_clips_come_back_exactly(tmp_path: Path, name: str) -> None:
    with open_clip(clips.make(tmp_path, name)) as clip:
        for frame in clip:
            planes = [torch.from_numpy(plane) for plane in frame.planes]
            assert_same(from_rgb(to_rgb(planes, frame.format), frame.format), planes, name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [8, 10, 16])
def test_planes_come_back_exactly_on_a_gpu(bits: int) -> None:
    for (width, height), location in itertools.product(SIZES, POSITIONS):
        clip = Clip(width, height, Pixels(bits), chroma_location=location)
        planes = random_planes(clip)
        rgb = to_rgb([plane.cuda() for plane in planes], clip)
        torch.testing.assert_close(rgb.cpu(), to_rgb(planes, clip), atol=1e-6, rtol=0)
        assert_same([plane.cpu() for plane in from_rgb(rgb, clip)], planes, clip)


def test_codes_are_clamped_to_the_depth() -> None:
    for value, code in ((9.0, 1023), (-9.0, 0)):
        planes = from_rgb(torch.full((1, 3, 4, 4), value), Clip(4, 4, Pixels(10)))
        assert planes[0].int().unique().tolist() == [code]
    colours = torch.tensor([5.0, 5, -5]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert from_rgb(colours, Clip(4, 4))[1].int().unique().tolist() == [0]


def test_half_precision_is_taken() -> None:
    rgb = torch.rand((1, 3, 6, 6), generator=torch.Generator().manual_seed(3)).half()
    assert_same(from_rgb(rgb, Clip(6, 6)), from_rgb(rgb.float(), Clip(6, 6)), "half")


@pytest.mark.parametrize("matrix", [0, 2, 8, 10, 13, 14, 99])
def test_other_matrices_are_refused(matrix: int) -> None:
    clip = Clip(4, 4, matrix_used=matrix)
    with pytest.raises(InputError, match=f"matrix {matrix} of ITU-T H.273"):
        to_rgb(random_planes(clip), clip)
    with pytest.raises(InputError, match="cannot be converted"):
        from_rgb(torch.zeros(1, 3, 4, 4), clip)


def test_what_does_not_fit_the_format_is_refused() -> None:
    clip = Clip(5, 4)
    planes = random_planes(clip)
    with pytest.raises(ValueError, match=r"\[\(4, 5\), \(2, 3\), \(2, 3\)\], got .*\(2, 2\)"):
        to_rgb([*planes[:2], planes[2][:, :2]], clip)
    with pytest.raises(ValueError, match=r"got torch.float32 \(4, 5\)"):
        to_rgb([plane.float() for plane in planes], clip)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 5\), got torch.float32 \(1, 3, 5, 4\)"):
        from_rgb(torch.zeros(1, 3, 5, 4), clip)
    with pytest.raises(ValueError, match="8 to 16 bits, got yuv of 7"):
        from_rgb(torch.zeros(1, 3, 4, 5), Clip(5, 4, Pixels(7)))
    with pytest.raises(ValueError, match="step of 1 or 2, got 4 columns and 1 rows"):
        from_rgb(torch.zeros(1, 3, 4, 5), Clip(5, 4, Pixels(8, 2, 0)))
    with pytest.raises(ValueError, match=r"one of left, center, .*, got 'middle'"):
        from_rgb(torch.zeros(1, 3, 4, 5), Clip(5, 4, chroma_location="middle"))
