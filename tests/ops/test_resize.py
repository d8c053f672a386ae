"""resize: the contract of every op, a direct reading of MATLAB's definition, known taps, both phases."""

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from msr.models import ImageModel
from msr.ops import resize, resize_reference
from msr.ops.resize import Kernel
from ops.contract import OpContract, Sample


def make(*shape: int, **options: Any) -> Sample:
    generator = torch.Generator().manual_seed(sum(shape))
    return Sample((torch.randn(shape, generator=generator, dtype=torch.float64),), options)


class TestResize(OpContract):
    op = staticmethod(resize)
    reference = staticmethod(resize_reference)
    name = "resize"
    takes_autocast = False

    samples: ClassVar = {
        "enlarged": make(2, 3, 5, 7, scale=2),
        "odd-scale": make(1, 2, 6, 5, scale=1.7),
        "shrunk": make(1, 3, 12, 9, scale=0.4),
        "size": make(1, 2, 7, 9, size=(13, 4)),
        "corner": make(1, 3, 4, 5, scale=3, phase="corner"),
        "no-antialias": make(1, 3, 9, 8, scale=0.5, antialias=False),
        "lanczos3": make(1, 2, 9, 8, size=(5, 13), kernel="lanczos3"),
        "area": make(1, 2, 9, 8, size=(4, 13), kernel="area"),
        "no-batch": make(0, 3, 5, 5, scale=2),
    }

    other_size = make(2, 3, 8, 12, scale=2)

    @classmethod
    def dispatcher_arguments(cls, tensors, options):
        x, settings = tensors[0], {"kernel": "cubic", "antialias": True, "phase": "centered", **options}
        scale, size = settings.get("scale"), settings.get("size")
        size = size or tuple(math.ceil(n * scale) for n in x.shape[2:])
        scales = [scale, scale] if scale else [size[0] / x.shape[2], size[1] / x.shape[3]]
        return x, list(size), list(map(float, scales)), settings["kernel"], settings["antialias"], settings["phase"]

    wrong: ClassVar = {
        "3d": lambda: resize(torch.rand(3, 4, 4), scale=2),
        "integers": lambda: resize(torch.ones(1, 1, 4, 4, dtype=torch.uint8), scale=2),
        "no-target": lambda: resize(torch.rand(1, 1, 4, 4)),
        "two-targets": lambda: resize(torch.rand(1, 1, 4, 4), scale=2, size=(8, 8)),
        "scale-0": lambda: resize(torch.rand(1, 1, 4, 4), scale=0),
        "scale-negative": lambda: resize(torch.rand(1, 1, 4, 4), scale=-2),
        "scale-nan": lambda: resize(torch.rand(1, 1, 4, 4), scale=math.nan),
        "scale-infinite": lambda: resize(torch.rand(1, 1, 4, 4), scale=math.inf),
        "scale-tiny": lambda: resize(torch.rand(1, 1, 4, 4), scale=1e-300),
        "scale-pair": lambda: resize(torch.rand(1, 1, 4, 4), scale=(2, 2)),  # type: ignore[arg-type]
        "size-one": lambda: resize(torch.rand(1, 1, 4, 4), size=4),  # type: ignore[arg-type]
        "size-three": lambda: resize(torch.rand(1, 1, 4, 4), size=(4, 4, 4)),  # type: ignore[arg-type]
        "size-0": lambda: resize(torch.rand(1, 1, 4, 4), size=(0, 4)),
        "empty": lambda: resize(torch.rand(1, 1, 0, 4), size=(4, 4)),
        "phase": lambda: resize(torch.rand(1, 1, 4, 4), scale=2, phase="middle"),  # type: ignore[arg-type]
        "phase-list": lambda: resize(torch.rand(1, 1, 4, 4), scale=2, phase=["corner"]),  # type: ignore[arg-type]
        "kernel": lambda: resize(torch.rand(1, 1, 4, 4), scale=2, kernel="box"),  # type: ignore[arg-type]
    }


def cubic(t: float) -> float:
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    if t <= 2:
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return 0.0


def lanczos3(t: float) -> float:
    """MATLAB's, with its guard against division by zero."""
    eps = np.finfo(float).eps
    value = (math.sin(math.pi * t) * math.sin(math.pi * t / 3) + eps) / ((math.pi**2 * t**2 / 3) + eps)
    return value if abs(t) < 3 else 0.0


def direct_line(line: np.ndarray, length: int, scale: float, kernel: str = "cubic") -> np.ndarray:
    """MATLAB's imresize of one line, tap by tap, in its own 1-based coordinates."""
    f, support = (cubic, 4.0) if kernel == "cubic" else (lanczos3, 6.0)
    n = len(line)
    mirror = [*range(n), *reversed(range(n))]
    factor = min(scale, 1.0)
    width = support / factor
    out = np.zeros(length)
    for i in range(1, length + 1):
        u = i / scale + 0.5 * (1.0 - 1.0 / scale)
        left = math.floor(u - width / 2)
        total = value = 0.0
        for j in range(left, left + math.ceil(width) + 2):
            weight = factor * f(factor * (u - j))
            total += weight
            value += weight * line[mirror[(j - 1) % (2 * n)]]
        out[i - 1] = value / total
    return out


def direct(x: np.ndarray, size: tuple[int, int], scales: tuple[float, float], kernel: str = "cubic") -> np.ndarray:
    tall = np.stack([direct_line(x[:, c], size[0], scales[0], kernel) for c in range(x.shape[1])], axis=1)
    return np.stack([direct_line(row, size[1], scales[1], kernel) for row in tall])


@pytest.mark.parametrize("kernel", ["cubic", "lanczos3"])
@pytest.mark.parametrize("scale", [2, 3, 4, 1 / 2, 1 / 3, 1 / 4, 1.7, 0.6, 1])
@pytest.mark.parametrize("shape", [(12, 24), (7, 5), (1, 9), (1, 1), (2, 3)])
def test_scale_agrees_with_the_definition(scale: float, shape: tuple[int, int], kernel: Kernel) -> None:
    x = np.random.default_rng(0).random(shape)
    size = (math.ceil(shape[0] * scale), math.ceil(shape[1] * scale))
    found = resize(torch.from_numpy(x)[None, None], scale=scale, kernel=kernel)[0, 0].numpy()
    np.testing.assert_allclose(found, direct(x, size, (scale, scale), kernel), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("shape", "size"), [((7, 9), (13, 4)), ((8, 8), (3, 21)), ((5, 1), (1, 5)), ((6, 7), (6, 7))])
def test_size_agrees_with_the_definition(shape: tuple[int, int], size: tuple[int, int]) -> None:
    x = np.random.default_rng(1).random(shape)
    found = resize(torch.from_numpy(x)[None, None], size=size)[0, 0].numpy()
    expected = direct(x, size, (size[0] / shape[0], size[1] / shape[1]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# 8-bit pictures and what MATLAB's imresize(.., "bicubic") makes of them, as published with GNU Octave's image package
# (the tests in its imresize.m, "reference results from matlab"): input, and the results for a scale, antialiased
# or not.
GOLDEN_INPUT = """
116 227 153  69 146 194  59 130 139 106
  2  47 137 249  90  75  16  24 158  44
155  68  46  84 166 156  69 204  32 152
 71 221 137 230 210 153 192 115  30 118
107 143 108  52  51  73 101  21 175  90
 54 158 143  77  26 168 113 229 165 225
  9  47 133 135 130 207 236  43  19  73
129  60  59 243  64 181 249  56  32  86"""
GOLDEN = {
    (1 / 2, True): "105 140 126 81 109; 110 134 153 114 93; 108 108 94 127 146; 67 126 162 149 62",
    (1 / 2, False): "92 164 123 38 118; 139 116 188 167 69; 121 87 67 108 180; 54 153 141 149 42",
    (1 / 3, True): "115 135 97 101; 113 119 124 125; 81 157 118 64",
}


@pytest.mark.parametrize(("scale", "antialias"), GOLDEN)
def test_golden_values_of_matlab(scale: float, antialias: bool, device: torch.device) -> None:
    """In 8 bits MATLAB rounds after the rows, too; by a third of 8 x 10 its scale is not that of the sizes."""
    golden = torch.tensor([[float(n) for n in row.split()] for row in GOLDEN[scale, antialias].split(";")])
    picture = torch.tensor([[float(n) for n in row.split()] for row in GOLDEN_INPUT.strip().splitlines()])
    x, golden = picture.to(device)[None, None], golden.to(device)[None, None]
    whole = resize(x, scale=scale, antialias=antialias)
    assert whole.shape == golden.shape
    assert (whole - golden).abs().max() < 1
    if scale == 1 / 2:
        rows = resize(x, size=(4, 10), antialias=antialias).clamp(0, 255).add(0.5).floor()
        both = resize(rows, size=(4, 5), antialias=antialias).clamp(0, 255).add(0.5).floor()
        assert torch.equal(both, golden)


def test_taps_of_doubling_and_halving() -> None:
    # Keys' kernel at 1/4, 3/4, 5/4 and 7/4; halved, its taps are the well-known 0.4336, 0.1133, -0.0352, -0.0117.
    near = [0.8671875, 0.2265625, -0.0703125, -0.0234375]
    impulse = torch.zeros(1, 1, 1, 12, dtype=torch.float64)
    impulse[..., 6] = 1.0
    doubled = resize(impulse, size=(1, 24))[0, 0, 0]
    taps = [near[3], near[2], near[1], near[0], near[0], near[1], near[2], near[3]]
    assert doubled.tolist() == pytest.approx([0.0] * 9 + taps + [0.0] * 7, abs=1e-12)
    halved = torch.stack([resize(torch.eye(16, dtype=torch.float64)[i].view(1, 1, 1, 16), size=(1, 8)).flatten()[4]
                          for i in range(16)])  # fmt: skip
    assert halved.tolist() == pytest.approx([0.0] * 5 + [t / 2 for t in taps] + [0.0] * 3, abs=1e-12)


@pytest.mark.parametrize("size", [(60, 80), (10, 16)])
def test_interior_agrees_with_another_library(size: tuple[int, int]) -> None:
    x = np.random.default_rng(2).random((30, 40), dtype=np.float32)
    other = np.asarray(Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC))
    found = resize(torch.from_numpy(x)[None, None], size=size)[0, 0].numpy()
    edge = max(3, 3 * size[0] // 30)  # at the border the library cuts its kernel instead of mirroring the picture
    np.testing.assert_allclose(found[edge:-edge, edge:-edge], other[edge:-edge, edge:-edge], atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_corner_phase_keeps_every_pixel_in_place(scale: int) -> None:
    x = torch.rand(1, 2, 7, 9, dtype=torch.float64)
    large = resize(x, scale=scale, phase="corner")
    assert large.shape == (1, 2, 7 * scale, 9 * scale)
    torch.testing.assert_close(large[..., ::scale, ::scale], x)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("phase", ["corner", "centered"])
def test_a_ramp_stays_a_ramp_at_its_phase(scale: int, phase: str) -> None:
    ramp = torch.arange(12.0, dtype=torch.float64).view(1, 1, 1, 12).expand(1, 1, 12, 12)
    large = resize(ramp, scale=scale, phase=phase)
    offset = 0.0 if phase == "corner" else (scale - 1) / 2
    expected = (torch.arange(12.0 * scale, dtype=torch.float64) - offset) / scale
    inner = slice(2 * scale, -2 * scale)
    torch.testing.assert_close(large[0, 0, :, inner], expected[inner].expand(12 * scale, -1))


def test_without_antialiasing_the_kernel_is_not_widened() -> None:
    x = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    # Thirds put each output's centre on an input pixel, where Keys' kernel interpolates.
    torch.testing.assert_close(resize(x, scale=1 / 3, antialias=False), x[..., 1::3, 1::3])
    assert not torch.allclose(resize(x, scale=1 / 3), x[..., 1::3, 1::3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_device_stay(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64).to(dtype)
    y = resize(x.to(device), scale=3)
    assert y.dtype == dtype
    assert y.device.type == device.type
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(y.cpu().double(), resize(x.double(), scale=3), rtol=0, atol=tolerance)


def test_gradient_flows_after_a_first_call_in_inference_mode() -> None:
    with torch.inference_mode():
        resize(torch.rand(1, 1, 11, 13), scale=2)
    x = torch.rand(1, 1, 11, 13, requires_grad=True)
    resize(x, scale=2).sum().backward()
    assert x.grad is not None
    assert x.grad.mean().item() == pytest.approx(4.0, rel=1e-4)


def test_compiles_as_part_of_a_model() -> None:
    model = ImageModel(scale=2, channels=8, blocks=1).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.rand(1, 3, 6, 5)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("length", [1, 3, 5, 8, 12, 31])
def test_area_is_the_mean_of_what_a_pixel_covers(length: int) -> None:
    line = np.random.default_rng(3).random(12)
    inner = 1000  # each input pixel in so many parts, each output pixel the mean of those in it
    parts = np.repeat(line, inner * length)
    expected = parts.reshape(length, -1).mean(axis=1)
    found = resize(torch.from_numpy(line).view(1, 1, 1, 12), size=(1, length), kernel="area")
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=0, atol=1e-12)


def test_taps_of_lanczos3_at_a_half() -> None:
    """Doubling puts pixels at quarters: sinc(1/4) sinc(1/12) and its like, normalised."""
    impulse = torch.zeros(1, 1, 1, 12, dtype=torch.float64)
    impulse[..., 6] = 1.0
    doubled = resize(impulse, size=(1, 24), kernel="lanczos3")[0, 0, 0]
    expected = [0.00738, 0.03011, -0.06800, -0.13327, 0.27101, 0.89277]
    assert doubled[7:13].tolist() == pytest.approx(expected, abs=1e-5)
    assert doubled[13:19].tolist() == pytest.approx(expected[::-1], abs=1e-5)
