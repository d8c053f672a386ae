"""A RAW photo's mosaic, levels and colours are read as LibRaw sees them, written as DNG and developed as it does."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from made import dng

from msr.errors import InputError
from msr.io import RawFrame, develop, read_raw, read_raw_frame, write_dng, write_linear_dng
from msr.io.tags import (
    ASCII,
    BYTE,
    DOUBLE,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Tag,
    make_tag,
    pack_tags,
    read_children,
    read_directory,
)

# Camera RGB to sRGB of a camera whose colours are less pure than those of sRGB.
TO_SRGB = np.linalg.inv(np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.05, 0.25, 0.7]]))
CHILDREN = {
    34665: {33434: make_tag(RATIONAL, [1, 250]), 37500: make_tag(UNDEFINED, b"private")},
    34853: {1: make_tag(ASCII, "N")},
}
MAKER = {271: make_tag(ASCII, "Maker"), 272: make_tag(ASCII, "Model 1"), 274: make_tag(SHORT, [6])}
EXIF = b"II*\0\x08\0\0\0" + pack_tags(MAKER, CHILDREN, 8)


def smooth(height: int = 64, width: int = 96) -> np.ndarray:
    """Linear camera RGB, ``(H, W, 3)`` in [0, 1], that leaves no colour at its white after white balance."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    red, green = 0.02 + 0.4 * x / width, 0.05 + 0.85 * y / height
    return np.stack([red, green, 0.3 + 0.25 * np.sin(x / 20) * np.cos(y / 25)], -1).astype(np.float32)


def frame(
    pattern: str = "rggb",
    rgb: np.ndarray | None = None,
    black: tuple[float, ...] = (64.0, 60.0, 66.0, 70.0),
    **others: object,
) -> RawFrame:
    rgb, white = smooth() if rgb is None else rgb, 4095.0
    mosaic = np.empty(rgb.shape[:2], np.uint16)
    for number, colour in enumerate(pattern):
        part = np.s_[number // 2 :: 2, number % 2 :: 2]
        mosaic[part] = np.rint(black[number] + rgb[(*part, "rgb".index(colour))] * (white - black[number]))
    made = RawFrame(mosaic, pattern, black, white, (2.1, 1.0, 1.6), TO_SRGB, (1e-3, 2e-5))  # type: ignore[arg-type]
    return dataclasses.replace(made, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "grbg", "gbrg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_frame_comes_back_from_a_dng(tmp_path: Path, pattern: str, orientation: int) -> None:
    written = frame(pattern, smooth(34, 50), orientation=orientation)
    write_dng(tmp_path / "a.dng", written)
    back = read_raw_frame(tmp_path / "a.dng")
    np.testing.assert_array_equal(back.mosaic, written.mosaic)
    assert (back.pattern, back.black, back.white) == (pattern, written.black, written.white)
    assert (back.noise, back.orientation) == (written.noise, orientation)
    np.testing.assert_allclose(back.white_balance, written.white_balance, rtol=1e-5)
    np.testing.assert_allclose(back.to_srgb, TO_SRGB, atol=2e-4)
    np.testing.assert_allclose(back.to_srgb.sum(1), 1, atol=1e-6)


def test_exif_goes_into_a_dng_and_comes_back(tmp_path: Path) -> None:
    write_dng(tmp_path / "a.dng", frame(orientation=6, exif=EXIF))
    with tifffile.TiffFile(tmp_path / "a.dng") as tiff:
        tags = tiff.pages[0].tags
        assert (tags["Make"].value, tags["Model"].value, tags["Orientation"].value) == ("Maker", "Model 1", 6)
        assert tags["UniqueCameraModel"].value == "Maker Model 1"
        assert tags["ExifTag"].value["ExposureTime"] == (1, 250)
    back = read_raw_frame(tmp_path / "a.dng").exif
    assert back is not None
    first = read_directory(back)
    assert (first[271].text, first[274].numbers) == ("Maker", (1,))  # the pixels are given upright
    assert read_children(back, first, 34665)[0][33434].numbers == (1, 250)
    assert 37500 not in read_children(back, first, 34665)[0]
    assert read_children(back, first, 34853)[0][1].text == "N"


def test_a_dng_of_another_program_is_read(tmp_path: Path) -> None:
    frame = read_raw_frame(dng(tmp_path / "a.dng", (0.5, 0.25, 0.125), orientation=8))
    assert (frame.mosaic.shape, frame.pattern, frame.white, frame.orientation) == ((32, 48), "rggb", 16383, 8)
    assert (frame.black, frame.white_balance, frame.noise) == ((512,) * 4, (1, 1, 1), None)
    np.testing.assert_allclose(frame.to_srgb, np.eye(3), atol=1e-3)


@pytest.mark.parametrize(("top", "left", "pattern"), [(1, 0, "gbrg"), (0, 1, "grbg"), (3, 1, "bggr"), (2, 2, "rggb")])
def test_the_pattern_counts_from_the_active_area(tmp_path: Path, top: int, left: int, pattern: str) -> None:
    written = frame("rggb", smooth(34, 50))
    patched(tmp_path / "a.dng", written, {50829: make_tag(LONG, [top, left, 33, 48])})
    back = read_raw_frame(tmp_path / "a.dng")
    assert back.pattern == pattern
    levels = np.reshape(written.black, (2, 2))  # from the corner of the area
    assert back.black == tuple(levels[(top % 2 + y) % 2, (left % 2 + x) % 2] for y in (0, 1) for x in (0, 1))
    height, width = back.mosaic.shape  # LibRaw begins at an even row and column
    even = np.s_[top + top % 2 :, left + left % 2 :]
    np.testing.assert_array_equal(back.mosaic, written.mosaic[even][:height, :width])


@pytest.mark.parametrize(
    "values", [[1e-3, 1e-5, 2e-3, 2e-5, 3e-3, 3e-5], [2e-3, 2e-5]], ids=["one a colour", "one for all"]
)
def test_the_noise_profile_is_the_mean_over_the_colours(tmp_path: Path, values: list[float]) -> None:
    patched(tmp_path / "a.dng", frame(noise=None), {51041: make_tag(DOUBLE, values)})
    assert read_raw_frame(tmp_path / "a.dng").noise == pytest.approx((2e-3, 2e-5))


@pytest.mark.parametrize("values", [[np.nan, 1e-5], [1e300, 0.1], [-1.0, 0.0], [1e-3], [0.0, 0.0]])
def test_an_impossible_noise_profile_counts_as_none(tmp_path: Path, values: list[float]) -> None:
    patched(tmp_path / "a.dng", frame(noise=None), {51041: make_tag(DOUBLE, values)})
    assert read_raw_frame(tmp_path / "a.dng").noise is None


@pytest.mark.parametrize("gains", [(2.1, 1.0, 1.6), (0.8, 1.0, 1.6)], ids=["least green", "least red"])
@pytest.mark.parametrize("orientation", [1, 6, 2])
def test_developing_is_that_of_libraw(tmp_path: Path, gains: tuple[float, float, float], orientation: int) -> None:
    rgb = smooth() * 0.7  # below saturation, where LibRaw's demosaicking is smooth too
    made = frame(rgb=rgb, black=(64,) * 4, white_balance=gains, orientation=orientation)
    write_dng(tmp_path / "a.dng", made)
    own, libraw = develop(rgb, made), read_raw(tmp_path / "a.dng") / 65535
    assert own.shape == libraw.shape
    difference = np.abs(own - libraw)[4:-4, 4:-4]  # LibRaw demosaicks the border otherwise
    assert difference.mean() < 1e-3
    assert difference.max() < 0.01


def test_highlights_are_white_as_with_libraw(tmp_path: Path) -> None:
    made = frame(rgb=np.ones((32, 48, 3), np.float32), black=(64,) * 4)
    write_dng(tmp_path / "a.dng", made)
    assert read_raw(tmp_path / "a.dng")[8:-8, 8:-8].min() == 65535
    assert develop(np.ones((4, 6, 3), np.float32), made, "uint16").min() == 65535


@pytest.mark.parametrize("gains", [(2.1, 1.0, 1.6), (0.8, 1.0, 1.6)])
@pytest.mark.parametrize("orientation", [1, 5, 8])
def test_a_linear_dng_develops_to_the_same_picture(
    tmp_path: Path, gains: tuple[float, float, float], orientation: int
) -> None:
    rgb = np.concatenate([smooth(), np.ones((8, 96, 3), np.float32)])
    like = frame(white_balance=gains, orientation=orientation, exif=EXIF)
    write_linear_dng(tmp_path / "a.dng", np.rint(rgb * 65535).astype(np.uint16), like)
    libraw = read_raw(tmp_path / "a.dng") / 65535
    np.testing.assert_allclose(develop(rgb, like), libraw, atol=1e-3)
    with pytest.raises(InputError, match=r"a\.dng holds no mosaic"):
        read_raw_frame(tmp_path / "a.dng")


def test_brightness_does_not_follow_the_brightest_pixel(tmp_path: Path) -> None:
    dim = np.full((32, 48, 3), 0.4, np.float32)
    bright = dim.copy()
    bright[::7, ::5] = 0.8  # LibRaw takes a maximum above 3/4 of white for white, unless it is told not to
    write_dng(tmp_path / "a.dng", frame(rgb=dim))
    write_dng(tmp_path / "b.dng", frame(rgb=bright))
    first, second = (np.median(read_raw(tmp_path / name), (0, 1)) for name in ("a.dng", "b.dng"))
    np.testing.assert_allclose(first, second, rtol=1e-3)


def patched(path: Path, made: RawFrame, tags: dict[int, Tag]) -> None:
    """Write a DNG in which tags are replaced."""
    write_dng(path, made)
    data = path.read_bytes()
    at = struct.unpack_from("<I", data, 4)[0]
    path.write_bytes(data[:at] + pack_tags({**read_directory(data), **tags}, {}, at))


IMPOSSIBLE = {
    "black above white": {50714: make_tag(RATIONAL, [20000, 1] * 4)},
    "colour matrix": {50721: make_tag(SRATIONAL, [2**31 - 1, 1] * 9)},
    "60000x60000": {256: make_tag(LONG, [60000]), 257: make_tag(LONG, [60000])},
    "too wide": {256: make_tag(LONG, [2**31])},
    "no rows": {257: make_tag(LONG, [0])},
    "one pixel": {256: make_tag(LONG, [1]), 257: make_tag(LONG, [1]), 279: make_tag(LONG, [2])},
    "more rows than it has": {257: make_tag(LONG, [3000])},
    "pixels behind its end": {273: make_tag(LONG, [2**32 - 1])},
    "pattern of 6x6": {33421: make_tag(SHORT, [6, 6]), 33422: make_tag(BYTE, [1, 2, 1, 1, 0, 1] * 6)},
    "three greens": {33422: make_tag(BYTE, [0, 1, 1, 1])},
    "no colours": {33422: make_tag(BYTE, [9, 9, 9, 9])},
    "area": {50829: make_tag(LONG, [20, 20, 10, 10])},
    "99 bits": {258: make_tag(SHORT, [99])},
    "gray": {262: make_tag(SHORT, [1])},
}


@pytest.mark.parametrize("tags", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_photos_end_in_one_sentence(tmp_path: Path, tags: dict[int, Tag]) -> None:
    patched(tmp_path / "a.dng", frame(), tags)
    with pytest.raises(InputError, match=r"a\.dng") as caught:
        read_raw_frame(tmp_path / "a.dng")
    assert "\n" not in str(caught.value)


def test_a_filter_of_4x4_is_not_taken_for_bayer(tmp_path: Path) -> None:
    quad = bytes(np.repeat(np.repeat([[0, 1], [1, 2]], 2, 0), 2, 1).astype(np.uint8))
    patched(tmp_path / "a.dng", frame(), {33421: make_tag(SHORT, [4, 4]), 33422: make_tag(BYTE, quad)})
    for read in (read_raw, read_raw_frame):
        with pytest.raises(InputError, match=r"a\.dng has a colour filter of 4x4 pixels, which is not read"):
            read(tmp_path / "a.dng")


def test_without_a_white_balance_daylight_counts_everywhere(tmp_path: Path) -> None:
    matrix = {50721: make_tag(SRATIONAL, [9000, 10000, -3000, 10000, 0, 1, -4000, 10000, 12000, 10000, 1000, 10000,
                                          0, 1, 1000, 10000, 4000, 10000])}  # fmt: skip
    patched(tmp_path / "a.dng", frame(rgb=np.full((32, 48, 3), 0.2, np.float32)), matrix | {50728: Tag(BYTE, b"")})
    made = read_raw_frame(tmp_path / "a.dng")
    assert made.white_balance != (1, 1, 1)
    expected = develop(np.full((4, 4, 3), 0.2, np.float32), made, "uint16")[0, 0]
    np.testing.assert_allclose(np.median(read_raw(tmp_path / "a.dng"), (0, 1)), expected, rtol=0.01)


DOUBTFUL = {
    "white 0": {50717: make_tag(LONG, [0])},
    "white 2^31": {50717: make_tag(LONG, [2**31])},
    "black 0/0": {50714: make_tag(RATIONAL, [0, 0] * 4)},
    "neutral 0": {50728: make_tag(RATIONAL, [0, 1] * 3)},
    "neutral 0/0": {50728: make_tag(RATIONAL, [0, 0] * 3)},
    "neutral huge": {50728: make_tag(RATIONAL, [2**32 - 1, 1, 1, 2**32 - 1, 1, 1])},
    "matrix 0": {50721: make_tag(SRATIONAL, [0, 1] * 9)},
    "matrix 0/0": {50721: make_tag(SRATIONAL, [0, 0] * 9)},
    "orientation 99": {274: make_tag(SHORT, [99])},
}


@pytest.mark.parametrize("tags", DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_a_doubtful_tag_leaves_is_possible(tmp_path: Path, tags: dict[int, Tag]) -> None:
    patched(tmp_path / "a.dng", frame(), tags)
    back = read_raw_frame(tmp_path / "a.dng")  # with LibRaw's own value in the tag's place
    assert 0 <= min(back.black) <= max(back.black) < back.white <= 65535
    assert min(back.white_balance) > 0.1
    assert 1 <= back.orientation <= 8
    picture = develop(smooth(), back)
    assert np.isfinite(picture).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("directory_first", [False, True])
def test_a_truncated_dng_is_refused(
    tmp_path: Path, share: float, directory_first: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.dng"
    if directory_first:
        dng(path)
    else:
        write_dng(path, frame())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"a\.dng"):
        read_raw_frame(path)
    assert capfd.readouterr().err == ""  # LibRaw would write there


def test_wrong_frames_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32"):
        write_dng(tmp_path / "a.dng", frame(mosaic=np.zeros((4, 4), np.float32)))
    with pytest.raises(ValueError, match="rgbe"):
        write_dng(tmp_path / "a.dng", dataclasses.replace(frame(), pattern="rgbe"))
    with pytest.raises(ValueError, match="uint8"):
        write_linear_dng(tmp_path / "a.dng", np.zeros((4, 4, 3), np.uint8), frame())
    assert list(tmp_path.iterdir()) == []


def test_libraw_sees_what_was_written(tmp_path: Path) -> None:
    made = frame("grbg")
    write_dng(tmp_path / "a.dng", made)
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        np.testing.assert_array_equal(raw.raw_image_visible, made.mosaic)
        assert raw.white_level == 4095
        # By LibRaw's numbers: red, first green, blue, second green.
        assert raw.black_level_per_channel == [60, 64, 66, 70]
        assert raw.camera_whitebalance[0] / raw.camera_whitebalance[1] == pytest.approx(2.1, rel=1e-5)
