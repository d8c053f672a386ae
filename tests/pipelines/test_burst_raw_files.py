"""Bursts of RAW files merge to one picture."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest
from made import dng, picture, weights
from pipelines.shots import HANDHELD, Notes, raw_shots

from msr.errors import InputError
from msr.io import convert_depth, encode_srgb, read_image, read_raw, write_dng, write_linear_dng
from msr.pipelines import merge_burst_files


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("pattern", ["rggb", "gbrg"])
def test_a_raw_burst_is_merged_on_the_mosaic(tmp_path: Path, orientation: int, pattern: str) -> None:
    paths, clean = raw_shots(tmp_path / "shots", 5, orientation, pattern)
    merge_burst_files(paths, tmp_path / "a.tif", 1, options=HANDHELD)
    merge_burst_files(paths, tmp_path / "a.png", 1, options=HANDHELD)
    merge_burst_files(paths[:1], tmp_path / "one.tif", 1, options=HANDHELD)
    np.testing.assert_array_equal(*(read_image(tmp_path / name).pixels for name in ("a.tif", "a.png")))
    write_dng(tmp_path / "clean.dng", clean)
    truth = read_raw(tmp_path / "clean.dng").astype(int)
    merged, one = (read_image(tmp_path / name).pixels.astype(int) for name in ("a.tif", "one.tif"))
    assert merged.shape == truth.shape
    inner = np.s_[6:-6, 6:-6]
    errors = [np.sqrt(np.square((picture - truth)[inner]).mean()) / 65535 for picture in (merged, one)]
    assert errors[0] < 0.012
    assert errors[0] < 0.75 * errors[1]  # five frames have less noise than one


def test_a_raw_burst_as_linear_dng_and_openexr(tmp_path: Path) -> None:
    paths, _ = raw_shots(tmp_path / "shots", 3, orientation=6)
    for name in ("a.dng", "a.tif", "a.exr"):
        written = merge_burst_files([tmp_path / "shots"], tmp_path / name, 1.5, options=HANDHELD)
        assert (written.width, written.height) == (96, 144)
    developed, by_libraw = read_image(tmp_path / "a.tif").pixels, read_raw(tmp_path / "a.dng")
    np.testing.assert_allclose(developed / 65535, by_libraw / 65535, atol=2e-3)
    with av.open(str(tmp_path / "a.exr")) as container:
        frame = next(container.decode(video=0))
        dtype = np.float16 if "f16" in frame.format.name else np.float32
        green = np.frombuffer(frame.planes[0], dtype).reshape(144, -1)[:, :96]
    np.testing.assert_allclose(encode_srgb(green.astype(np.float32)), developed[..., 1] / 65535, atol=2e-3)
    assert len(paths) == 3


def test_a_raw_burst_and_a_model_for_pictures(tmp_path: Path) -> None:
    paths = [dng(tmp_path / f"{index}.dng", (0.1 + 0.01 * index, 0.2, 0.3)) for index in range(3)]
    merge_burst_files(paths, tmp_path / "a.tif", model=weights(tmp_path, "burst", scale=2))
    result = read_image(tmp_path / "a.tif").pixels
    assert (result.shape, result.dtype) == ((64, 96, 3), np.uint16)
    with pytest.raises(InputError, match="DNG is for RAW frames"):
        merge_burst_files(paths, tmp_path / "a.dng", model=weights(tmp_path, "burst", scale=2))


@pytest.mark.parametrize("name", ["a.tif", "a.dng"])
def test_a_raw_burst_and_a_model_for_mosaics(tmp_path: Path, name: str) -> None:
    paths, clean = raw_shots(tmp_path / "shots", 3, orientation=6)
    model = weights(tmp_path, "burst-raw", scale=2, offset_groups=2)
    for tile in (None, 48):
        merge_burst_files(paths, tmp_path / name, model=model, tile=tile)
        back = read_raw(tmp_path / name) if name == "a.dng" else read_image(tmp_path / name).pixels
        assert back.shape == (192, 128, 3)
        write_dng(tmp_path / "clean.dng", clean)
        truth = read_raw(tmp_path / "clean.dng") / 65535
        small = (
            back[0::2, 0::2] / 262140
            + back[1::2, 0::2] / 262140
            + back[0::2, 1::2] / 262140
            + back[1::2, 1::2] / 262140
        )
        assert np.abs(small - truth)[6:-6, 6:-6].mean() < 0.02  # untrained, it enlarges by cubic convolution


def test_raw_frames_that_differ_are_named(tmp_path: Path) -> None:
    paths, _ = raw_shots(tmp_path / "shots", 2)
    other, _ = raw_shots(tmp_path / "other", 2, pattern="bggr")
    turned, _ = raw_shots(tmp_path / "turned", 2, orientation=3)
    for wrong in (other, turned):
        with pytest.raises(InputError, match=r"1\.dng has pattern"):
            merge_burst_files([paths[0], wrong[1]], tmp_path / "a.png", 2, options=HANDHELD)
    assert not (tmp_path / "a.png").exists()


def test_a_damaged_raw_frame_is_named(tmp_path: Path) -> None:
    paths, frame = raw_shots(tmp_path / "shots", 3)
    whole = paths[1].read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:40], b"", b"no photo"):
        paths[1].write_bytes(damaged)
        with pytest.raises(InputError, match=r"1\.dng"):
            merge_burst_files(paths, tmp_path / "a.png", 2)
    write_dng(paths[1], dataclasses.replace(frame, white=60))  # below black
    with pytest.raises(InputError, match=r"1\.dng has impossible levels"):
        merge_burst_files(paths, tmp_path / "a.png", 2)
    assert not (tmp_path / "a.png").exists()


def test_raw_frames_without_a_mosaic_are_developed_first(tmp_path: Path) -> None:
    _, frame = raw_shots(tmp_path / "shots", 1)
    for index in range(3):
        rgb = convert_depth(np.roll(picture(), index, 1), "uint16")
        write_linear_dng(tmp_path / f"{index}.dng", rgb // 2, frame)
    report = Notes()
    merge_burst_files([tmp_path / f"{i}.dng" for i in range(3)], tmp_path / "a.tif", 2, progress=report)
    assert "0.dng holds no mosaic" in report.notes[0]
    assert read_image(tmp_path / "a.tif").pixels.shape == (96, 128, 3)


def test_confidence_of_a_raw_burst_is_upright(tmp_path: Path) -> None:
    paths, _ = raw_shots(tmp_path / "shots", 4, orientation=6)
    options = dataclasses.replace(HANDHELD, confidence=tmp_path / "w.tif")
    merge_burst_files(paths, tmp_path / "a.png", 1, options=options)
    weight = read_image(tmp_path / "w.tif").pixels
    assert (weight.shape, weight.dtype) == ((96, 64), np.float32)
    assert 0.5 < weight[8:-8, 8:-8].mean() <= 1
