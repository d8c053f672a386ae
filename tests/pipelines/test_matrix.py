"""Every kind of clip through the whole pipeline with a network that changes nothing: nothing is changed."""

from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import pytest
from torch import Tensor, nn

import msr
from msr import io
from msr.errors import WorkError
from msr.pipelines import VideoOptions


class Identity(nn.Module):
    """Gives every frame back."""

    kind = "image"
    phase = "centered"
    scale = 1
    halo = 0

    def forward(self, x: Tensor) -> Tensor:
        return x


def settings(name: str, suffix: str) -> io.EncoderSettings:
    """Without loss, so that the pipeline's own differences are seen."""
    deep = clips.MATRIX[name].pix_fmt.endswith("10le")
    if suffix == ".webm":
        return io.EncoderSettings(None if deep else "vp9", 4 if deep else 0)
    return io.EncoderSettings(None, 0)


def planes(path: Path) -> list[io.Frame]:
    with io.open_clip(path) as clip:
        return list(clip)


@pytest.mark.parametrize("name", clips.MATRIX)
def test_a_clip_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    source = clips.make(tmp_path, name)
    target = tmp_path / f"out{source.suffix}"
    options = VideoOptions(encoder=settings(name, source.suffix), segment=5)
    msr.upscale_video(source, target, model=Identity(), options=options)
    before, after = planes(source), planes(target)
    assert len(before) == len(after) == clips.MATRIX[name].frames
    kinds = before[0].format.pixels, after[0].format.pixels
    for old, new in zip(before, after, strict=True):
        if name == "av1":  # whose encoder always loses something
            assert np.abs(old.pixels / 65535 - new.pixels / 65535).mean() < 0.02
        elif kinds[0] == kinds[1] or kinds[0].kind == "gray":
            for a, b in zip(old.planes, new.planes, strict=kinds[0] == kinds[1]):
                assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
        else:  # RGB, which is written as Y, U and V
            assert np.abs(old.pixels.astype(int) - new.pixels).max() <= 3
    findings = io.audit(source, target)
    assert [finding for finding in findings if finding.verdict == "lost"] == []


def test_a_truncated_clip_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    source = clips.truncate(clips.write(tmp_path / "a.mkv", clips.Recipe(".mkv", frames=20)))
    with pytest.raises(WorkError, match=r"a\.mkv is truncated"):
        msr.upscale_video(source, tmp_path / "b.mkv", model=Identity())
    assert list(tmp_path.iterdir()) == [source]


def test_a_stretched_clip_is_shown_in_its_old_shape(tmp_path: Path) -> None:
    source = clips.make(tmp_path, "plain")  # 64x48
    msr.upscale_video(source, tmp_path / "b.mp4", model=Identity(), options=VideoOptions(size=(96, 48)))
    with io.open_clip(tmp_path / "b.mp4") as clip:
        assert (clip.format.width, clip.format.height, clip.format.aspect) == (96, 48, Fraction(2, 3))


def test_the_shape_of_pixels_turns_with_a_picture_that_is_set_upright(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    source = clips.write(tmp_path / "a.mp4", clips.Recipe(frames=1, rotation=90, aspect=Fraction(3, 2)))
    msr.upscale_video(source, "-", model=Identity())
    head = capfdbinary.readouterr().out.split(b"\n", 1)[0]
    assert head.split()[1:6] == [b"W48", b"H64", b"F25:1", b"Ip", b"A2:3"]
