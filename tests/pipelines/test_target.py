"""Any size: what was asked for is what comes out, and the nearest model is taken for it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from made import picture
from pipelines.networks import Running

import msr
from msr.errors import InputError
from msr.ops.resize import resize
from msr.pipelines.choose import nearest_scale
from msr.pipelines.target import Target, parse_rate, parse_size


@pytest.mark.parametrize(
    ("target", "source", "expected"),
    [
        (Target(2), (33, 31), (66, 62)),
        (Target(3), (33, 31), (99, 93)),
        (Target(1.5), (640, 360), (960, 540)),
        (Target(1.5), (33, 31), (50, 46)),
        (Target(0.5), (64, 48), (32, 24)),
        (Target(size=(3840, 2160)), (720, 576), (3840, 2160)),
        (Target(fit=(1920, 1080)), (640, 480), (1440, 1080)),
        (Target(fit=(1920, 1080)), (480, 640), (810, 1080)),
        (Target(fit=(1000, 999)), (640, 480), (1000, 750)),
        (Target(fit=(333, 77)), (640, 480), (102, 76)),
        (Target(), (64, 48), None),
    ],
)
def test_sizes(target: Target, source: tuple[int, int], expected: tuple[int, int] | None) -> None:
    assert target.size_of(*source) == expected


def test_a_fit_never_leaves_its_box() -> None:
    rng = np.random.default_rng(0)
    for width, height, wide, high in rng.integers(1, 3000, (500, 4)).tolist():
        size = Target(fit=(wide, high)).size_of(width, height)
        assert size is not None
        assert 1 <= size[0] <= wide
        assert 1 <= size[1] <= high


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0}, {"scale": -1.5}, {"scale": float("nan")}, {"size": (0, 4)}, {"fit": (4, 99999)},
     {"scale": 2, "size": (8, 8)}, {"scale": True}],
)  # fmt: skip
def test_targets_that_make_no_picture(wrong: dict) -> None:
    with pytest.raises(InputError):
        Target(**wrong)


def test_words() -> None:
    assert parse_size("3840x2160") == (3840, 2160)
    assert parse_rate("30000/1001") == Fraction(30000, 1001)
    assert parse_rate("23.976") == Fraction(2997, 125)
    for words in ("3840", "axb", "1x", "-1x5", "1x2x3"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(words)
    for words in ("fast", "0", "1/0", "-5"):
        with pytest.raises(InputError, match="rate"):
            parse_rate(words)


def test_the_nearest_model() -> None:
    have = sorted({card.scale for card in msr.available_models() if card.kind == "image"})
    assert nearest_scale("image", 0.5) == have[0]
    assert nearest_scale("image", have[-1] - 0.5) == have[-1]
    assert nearest_scale("image", 9) == have[-1]
    with pytest.raises(InputError, match="no painting weights"):
        nearest_scale("painting", 2)


@pytest.mark.parametrize("scale", [1.5, 3.0, 0.5])
def test_frames_of_any_scale_are_the_model_resized(scale: float) -> None:
    frame = picture().astype(np.float32) / 255
    large = next(msr.upscale_frames([frame], model=Running()))
    result = next(msr.upscale_frames([frame], scale, model=Running()))
    height, width = round(48 * scale), round(64 * scale)
    unit = torch.from_numpy(large).permute(2, 0, 1)[None]
    expected = resize(unit, size=(height, width))[0].permute(1, 2, 0).clamp(0, 1)
    assert result.shape == (height, width, 3)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)
