"""Pictures go through files unchanged, and damaged or hostile files end in one sentence."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from made import picture
from PIL import Image

from msr.errors import InputError, WorkError
from msr.io import MAX_PIXELS, Picture, check_output, convert_depth, image_size, read_image, whole, write_image

DEEP = convert_depth(picture(), "uint16") + np.arange(64, dtype=np.uint16)[:, None]
ALPHA = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64, 1)


def png(width: int, height: int, rows: bytes, colour: int = 2, end: bool = True) -> bytes:
    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + (chunk(b"IEND", b"") if end else b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF", "a.bmp", "a.webp", "a.jpg"])
@pytest.mark.parametrize("channels", [0, 3, 4])
def test_eight_bits_come_back(tmp_path: Path, name: str, channels: int) -> None:
    pixels = picture()[..., 0] if channels == 0 else picture()
    if channels == 4:
        if name == "a.jpg":
            pytest.skip("JPEG holds no alpha")
        pixels = np.concatenate([pixels, (128 + ALPHA % 128).astype(np.uint8)], 2)
    write_image(tmp_path / name, pixels)
    back = read_image(tmp_path / name).pixels
    if name == "a.webp" and channels == 0:  # WebP has no gray
        back = back[..., 0]
    assert back.shape == pixels.shape
    assert back.dtype == np.uint8
    difference = np.abs(back.astype(int) - pixels).max()
    assert difference == 0 if name.lower() in ("a.png", "a.tif", "a.tiff", "a.bmp") else difference < 32


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("pixels", [DEEP, DEEP[..., 1], np.concatenate([DEEP, ALPHA], 2)], ids=["rgb", "gray", "rgba"])
def test_sixteen_bits_come_back(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    write_image(tmp_path / name, pixels)
    back = read_image(tmp_path / name).pixels
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, pixels)


def test_float_stays_in_tiff_and_is_rounded_elsewhere(tmp_path: Path) -> None:
    pixels = np.linspace(-0.1, 1.1, 48, dtype=np.float32).reshape(4, 4, 3)
    for name in ("a.tif", "a.png", "a.bmp"):
        write_image(tmp_path / name, pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, np.rint(pixels.clip(0, 1) * 65535))
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp").pixels, np.rint(pixels.clip(0, 1) * 255))


def test_a_tiff_written_by_another_program_reads_in_rgb_order(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, picture())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiffs_of_other_layouts_mean_the_same(tmp_path: Path, order: str, big: bool, dtype: type) -> None:
    path, top = tmp_path / "a.tif", 1 if dtype == np.float32 else np.iinfo(dtype).max
    rgba = (np.concatenate([picture(), (128 + ALPHA % 128).astype(np.uint8)], 2) / 255 * top).astype(dtype)
    multiplied = rgba / top * np.concatenate([np.repeat(rgba[..., 3:], 3, 2), np.full_like(rgba[..., 3:], top)], 2)
    multiplied = (multiplied if top == 1 else np.rint(multiplied)).astype(dtype)
    kind: dict = {"byteorder": order, "bigtiff": big}
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], **kind)
    np.testing.assert_array_equal(read_image(path).pixels, rgba)
    tifffile.imwrite(path, multiplied, photometric="rgb", extrasamples=["assocalpha"], **kind)
    np.testing.assert_allclose(read_image(path).pixels, rgba, atol=1e-6 * top if top == 1 else 1)
    tifffile.imwrite(path, rgba[..., 0], photometric="miniswhite", **kind)
    np.testing.assert_array_equal(read_image(path).pixels, top - rgba[..., 0])
    planes = rgba[..., :3].transpose(2, 0, 1).copy()
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **kind)
    if dtype == np.uint8:
        np.testing.assert_array_equal(read_image(path).pixels, rgba[..., :3])
    else:
        with pytest.raises(InputError, match=r"a\.tif .* planes"):
            read_image(path)


@pytest.mark.parametrize(
    ("pixels", "kind", "says"),
    [
        (DEEP[..., :2], {"photometric": "minisblack", "extrasamples": ["unassalpha"]}, "gray TIFF with alpha"),
        (DEEP.astype(np.float16) / 65504, {"photometric": "rgb"}, "16-bit floating point, which is not read"),
        (np.repeat(DEEP[..., :1], 4, 2), {"photometric": "separated"}, "CMYK TIFF of 4 channels of 16-bit samples"),
        (np.repeat(DEEP[..., :1], 5, 2), {"photometric": "rgb"}, "5 channels of 16-bit samples, which is not read"),
    ],
)
def test_tiffs_that_are_not_read_are_not_called_damaged(
    tmp_path: Path, pixels: np.ndarray, kind: dict, says: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, planarconfig="contig", **kind)
    with pytest.raises(InputError, match=says):
        read_image(tmp_path / "a.tif")


def test_no_alpha_is_made_up(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.repeat(picture()[..., :1], 4, 2), photometric="separated")
    Image.fromarray(picture()).save(
        tmp_path / "a.webp", save_all=True, append_images=[Image.fromarray(255 - picture())], lossless=True
    )
    for name in ("a.tif", "a.webp"):
        assert read_image(tmp_path / name).pixels.shape == (48, 64, 3)


def test_the_alpha_of_a_tiff_is_one_for_other_programs(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", np.concatenate([picture(), ALPHA.astype(np.uint8)], 2))
    with Image.open(tmp_path / "a.tif") as other:
        assert other.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(other)[..., :3], picture())


def test_the_first_of_two_widths_counts(tmp_path: Path) -> None:
    write_image(tmp_path / "a.tif", picture(128, 160)[..., 0])
    data = (tmp_path / "a.tif").read_bytes()
    at = struct.unpack_from("<I", data, 4)[0]
    wide = data[at + 2 : at + 14]
    for entry in (wide, wide[:8] + struct.pack("<I", 2)):  # instead of the last tag, SampleFormat
        (tmp_path / "a.tif").write_bytes(data[: at + 2 + 11 * 12] + entry + data[at + 2 + 12 * 12 :])
        assert image_size(tmp_path / "a.tif") == (160, 128)
        assert read_image(tmp_path / "a.tif").pixels.shape == (128, 160)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, name: str, orientation: int) -> None:
    u = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 255, (4, 6, 1), np.uint8), 16, 0), 16, 1).repeat(3, 2)
    # By CIPA DC-008: where the stored row 0 and column 0 are in the upright picture.
    upright = {
        1: u, 2: u[:, ::-1], 3: u[::-1, ::-1], 4: u[::-1], 5: u.transpose(1, 0, 2), 6: np.rot90(u, -1),
        7: np.rot90(u, 2).transpose(1, 0, 2), 8: np.rot90(u),
    }[orientation]  # fmt: skip
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, u, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
        chunk = np.frombuffer(exif, np.uint8)
        _, data = cv2.imencodeWithMetadata(Path(name).suffix, u, [cv2.IMAGE_METADATA_EXIF], [chunk])
        (tmp_path / name).write_bytes(data.tobytes())
    back = read_image(tmp_path / name).pixels
    assert back.shape == upright.shape
    assert np.abs(back.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_colour_profile_is_kept(tmp_path: Path, name: str) -> None:
    # An RGB display profile: header and one private tag (ICC.1:2010), long enough for libpng.
    white = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    profile = bytearray(128) + struct.pack(">I4sII", 1, b"test", 144, 256) + np.random.default_rng(0).bytes(256)
    profile[0:4], profile[8:12] = struct.pack(">I", len(profile)), b"\x02\x40\0\0"
    profile[12:24], profile[36:40] = b"mntrRGB XYZ ", b"acsp"
    profile[68:80] = white
    picture_in = Picture(picture(), bytes(profile))
    write_image(tmp_path / name, picture_in.pixels, picture_in.icc)
    assert read_image(tmp_path / name).icc == bytes(profile)


def test_a_broken_colour_profile_does_not_spoil_the_picture(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(), b"no profile at all" * 20)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, picture())


DAMAGED = {
    "empty.png": b"",
    "text.png": b"this is not a picture",
    "cut.png": png(64, 48, bytes((64 * 3 + 1) * 48), end=False),
    "norows.png": png(64, 48, b""),
    "huge.png": png(100_000, 100_000, b""),
    "zero.png": png(0, 5, b""),
    "head.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "loop.jpg": b"\xff\xd8\xff\xe0\x00\x00" * 50,
    "wide.bmp": b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 2**30, 2**30, 1, 24) + bytes(24),
    "tiny.tif": b"II*\0\x08\0\0\0\xff\xff",
    "huge.tif": b"II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHII", 256, 4, 1, 2**31, 257, 4, 1, 2**31) + bytes(4),
    "cut.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_files_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(InputError, match=name) as caught:
        read_image(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_a_file_cut_in_half_is_refused(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / name, picture())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        read_image(tmp_path / name)


def test_the_limit_on_size_is_stated(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000, b""))
    with pytest.raises(InputError, match=f"{MAX_PIXELS:,}"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.5, value]], np.float32))
    with pytest.raises(InputError, match="not finite"):
        read_image(tmp_path / "a.tif")


def test_samples_of_other_types_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.int16))
    with pytest.raises(InputError, match="int16"):
        read_image(tmp_path / "a.tif")


def test_missing_file_folder_and_wrong_suffix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="must end in"):
        write_image(tmp_path / "a.xyz", picture())
    with pytest.raises(InputError, match="no alpha"):
        write_image(tmp_path / "a.jpg", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match="16383"):
        write_image(tmp_path / "a.webp", np.zeros((1, 20_000), np.uint8))


@pytest.mark.parametrize("length", [200, 240, 251])
def test_the_longest_names_are_written(tmp_path: Path, length: int) -> None:
    write_image(tmp_path / ("a" * length + ".png"), picture())
    assert [len(path.name) for path in tmp_path.iterdir()] == [length + 4]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole(path) as part:
            part.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(WorkError, match=r"a\.png"), whole(path):
        raise OSError(28, "No space left on device")
    with whole(path) as part:
        part.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "in.png")
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "none" / "a.png")
    with pytest.raises(InputError, match="does not exist"):
        check_output(tmp_path / "in.png" / "a.png")
    for name in ("in.png", "link.png"):
        with pytest.raises(InputError, match="also an input"):
            check_output(tmp_path / name, [tmp_path / "in.png"])
    check_output(tmp_path / "out.png", [tmp_path / "in.png"])
