"""Clips stream: one frame out for one in, a short look-ahead, audio and times along, nothing half-written."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import Recipe, write
from made import clip, picture, weights
from pipelines.networks import Convolutions, Running, Weighted, stirred

import msr
from msr.errors import InputError, WorkError
from msr.io import convert_depth, read_image, write_image

FRAMES = [np.roll(picture(), 2 * i, 1) for i in range(5)]


def as_clip(frames: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[None].float() / 255


@pytest.mark.parametrize("model", [Running(), stirred("video", scale=2, offset_groups=2)], ids=["running", "msr"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_stream_is_the_model_on_the_whole_clip(model: torch.nn.Module, count: int) -> None:
    expected = model(as_clip(FRAMES[:count]))[0].permute(0, 2, 3, 1).clamp(0, 1).numpy()
    results = list(msr.upscale_frames(FRAMES[:count], model=model))
    assert len(results) == count
    for result, frame in zip(results, expected, strict=True):
        assert (result.shape, result.dtype) == ((96, 128, 3), np.uint8)
        # Rounding to 8 bits, and that of convolutions, which is another for one picture than for several.
        np.testing.assert_allclose(result / 255, frame, atol=0.53 / 255)


def test_a_frame_comes_out_as_soon_as_the_next_is_in() -> None:
    taken = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in FRAMES:
            taken += 1
            yield frame

    seen = [taken for _ in msr.upscale_frames(source(), model=Running())]
    assert seen == [2, 3, 4, 5, 5]


def test_an_image_model_runs_frame_by_frame() -> None:
    model = Convolutions().requires_grad_(False)
    for result, frame in zip(msr.upscale_frames(FRAMES, model=model), FRAMES, strict=True):
        np.testing.assert_array_equal(result, msr.upscale_image(frame, model=model))


def test_tiles_of_a_stream_keep_their_own_state() -> None:
    frames = [convert_depth(np.roll(picture(70, 90), i, 1), "float32") for i in range(4)]
    whole = list(msr.upscale_frames(frames, model=Running(), tile=1000))
    tiled = list(msr.upscale_frames(frames, model=Running(), tile=32))
    for a, b in zip(whole, tiled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_frames_keep_their_kind(dtype: str) -> None:
    gray = [convert_depth(frame[..., 0], dtype) for frame in FRAMES]
    for result in msr.upscale_frames(gray, model=Running()):
        assert (result.shape, result.dtype) == ((96, 128), np.dtype(dtype))
    alpha = [np.concatenate([frame, frame[..., :1]], 2) for frame in FRAMES]
    assert {result.shape for result in msr.upscale_frames(alpha, model=Running())} == {(96, 128, 4)}
    tensors = [torch.from_numpy(frame).permute(2, 0, 1) for frame in FRAMES]
    assert {tuple(result.shape) for result in msr.upscale_frames(tensors, model=Running())} == {(3, 96, 128)}


def test_frames_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="frame 2 is 32x48, expected 64x48"):
        list(msr.upscale_frames([*FRAMES[:2], FRAMES[2][:, :32]], model=Running()))
    with pytest.raises(InputError, match="frame 1 has channels 1 of uint8, expected 3 of uint8"):
        list(msr.upscale_frames([FRAMES[0], FRAMES[1][..., 0]], model=Running()))
    with pytest.raises(InputError, match=r"frame 1 .*float64"):
        list(msr.upscale_frames([FRAMES[0], FRAMES[1].astype(float)], model=Running()))
    with pytest.raises(InputError, match="is of kind burst"):
        msr.upscale_frames(FRAMES, model=Weighted())
    with pytest.raises(InputError, match="tile must be at least 32"):
        msr.upscale_frames(FRAMES, model=Running(), tile=3)
    assert list(msr.upscale_frames([], model=Running())) == []


def test_a_clip_with_audio_from_file_to_file(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", 6, audio="aac")
    written = msr.upscale_video(source, tmp_path / "b.mp4", model=weights(tmp_path, "video"))
    assert (written.width, written.height, written.frames) == (256, 192, 6)
    with av.open(str(source)) as before, av.open(str(tmp_path / "b.mp4")) as after:
        assert [a.codec_context.name for a in after.streams.audio] == ["aac"]
        assert after.streams.video[0].average_rate == before.streams.video[0].average_rate
        old, new = list(before.decode(video=0)), list(after.decode(video=0))
    assert [frame.time for frame in new] == pytest.approx([frame.time for frame in old])
    # An untrained model is a cubic enlargement: the frames are still the same pictures.
    for small, large in zip(old, new, strict=True):
        shrunk = large.reformat(64, 48, interpolation="AREA").to_ndarray(format="rgb24").astype(int)
        assert np.abs(shrunk - small.to_ndarray(format="rgb24")).mean() < 4


def test_a_truncated_clip_leaves_nothing(tmp_path: Path) -> None:
    model = weights(tmp_path, "video", scale=2)
    source = clip(tmp_path / "a.mkv", 20)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * 0.7)])
    (tmp_path / "b.mp4").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WorkError, match=r"a\.mkv is truncated"):
        msr.upscale_video(source, tmp_path / "b.mp4", model=model)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "b.mp4").read_bytes() == b"old"


def test_a_clip_whose_frames_change_size_is_refused(tmp_path: Path) -> None:
    joined = b""
    for index, size in enumerate(((64, 48), (96, 48))):
        path = tmp_path / f"{index}.h264"
        clip(path, 3, size=size)
        joined += path.read_bytes()
    (tmp_path / "a.h264").write_bytes(joined)
    with pytest.raises(InputError, match=r"a\.h264: frame 3 is 96x48, expected 64x48"):
        msr.upscale_video(tmp_path / "a.h264", tmp_path / "b.mp4", model=weights(tmp_path, "video", scale=2))
    assert not (tmp_path / "b.mp4").exists()


def test_a_folder_of_frames_in_and_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, frame in enumerate(FRAMES[:3]):
        write_image(tmp_path / "in" / f"{index}.png", frame)
    model = weights(tmp_path, "video", scale=2)
    msr.upscale_video(tmp_path / "in", tmp_path / "out", model=model)
    expected = list(msr.upscale_frames(FRAMES[:3], model=model))
    for index, frame in enumerate(expected):
        written = read_image(tmp_path / "out" / f"{index:06d}.png").pixels
        # Halves may round to either side, for the code values are divided in another way.
        np.testing.assert_allclose(written.astype(int), frame.astype(int), atol=1)
        assert (written != frame).mean() < 0.01
    with pytest.raises(InputError, match="exists"):
        msr.upscale_video(tmp_path / "in", tmp_path / "out", model=model)
    write_image(tmp_path / "in" / "9.png", picture(20, 20))
    with pytest.raises(InputError, match="is 20x20, expected 64x48"):
        msr.upscale_video(tmp_path / "in", tmp_path / "half", model=model)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("source", ["p/%02d.png", "p", "a.mp4"])
def test_a_pattern_replaces_no_picture(tmp_path: Path, source: str) -> None:
    clip(tmp_path / "a.mp4", 3)
    (tmp_path / "p").mkdir()
    for index in range(7, 9):
        write_image(tmp_path / "p" / f"{index:02d}.png", picture())
    before = {path: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    with pytest.raises(InputError, match=r"07\.png exists; pictures are written to names that are free"):
        msr.upscale_video(tmp_path / source, tmp_path / "p" / "%02d.png", model=weights(tmp_path, "image", scale=2))
    assert {path: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before


def test_a_folder_whose_name_holds_a_number_sign(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 1)
    msr.upscale_video(tmp_path / "a.mp4", tmp_path / "shots%d", model=weights(tmp_path, "image", scale=2))
    assert [path.name for path in (tmp_path / "shots%d").iterdir()] == ["000000.png"]
    assert not (tmp_path / "000000.png").exists()


def test_ten_bits_and_uneven_times_go_through(tmp_path: Path) -> None:
    shown = [0, 300, 400, 1000]
    recipe = Recipe(".mkv", 4, pix_fmt="yuv420p10le", times=tuple(shown), base=Fraction(1, 3000), matrix=1)
    write(tmp_path / "a.mkv", recipe)
    msr.upscale_video(tmp_path / "a.mkv", tmp_path / "b.mp4", model=weights(tmp_path, "video", scale=2))
    with av.open(str(tmp_path / "b.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time * 3000) for frame in frames] == pytest.approx(shown, abs=3)
    assert frames[0].format.name == "yuv420p10le"
    assert int(frames[0].colorspace) == 1
