"""EXIF and colour profiles go from picture to picture; sizes are known without decoding; HEIF in, OpenEXR out."""

import re
import struct
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import tifffile
from made import dng, picture
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from msr.errors import InputError
from msr.io import Picture, image_size, raw_exif, raw_size, read_image, read_raw, write_image
from msr.io.exif import collect_exif, exif_orientation
from msr.io.tags import ASCII, LONG, RATIONAL, SHORT, UNDEFINED, make_tag, pack_tags, read_children, read_directory


def exif_block(order: str = "<", orientation: int = 1) -> bytes:
    """EXIF as a camera writes it, by Pillow: with a size, a thumbnail's directory, GPS and the maker's notes."""
    exif = Image.Exif()
    exif.endian = order
    exif[271], exif[272], exif[274], exif[315] = "Maker", "Model 1", orientation, "Zoë"
    exif.get_ifd(34665).update(
        {33434: IFDRational(1, 250), 34855: 200, 40962: 640, 40963: 480, 37500: b"private", 36867: "then"}
    )
    exif.get_ifd(34853).update({1: "N", 2: (52.0, 30.0, 10.0)})
    return exif.tobytes()


def profile(space: bytes = b"RGB ") -> bytes:
    """A display profile: header and one private tag (ICC.1:2010), long enough for libpng."""
    made = bytearray(128) + struct.pack(">I4sII", 1, b"test", 144, 256) + np.random.default_rng(0).bytes(256)
    made[0:4], made[8:12] = struct.pack(">I", len(made)), b"\x02\x40\0\0"
    made[12:24], made[36:40] = b"mntr" + space + b"XYZ ", b"acsp"
    made[68:80] = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return bytes(made)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("source", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("target", ["b.jpg", "b.png", "b.webp", "b.tif"])
def test_exif_is_carried_over(tmp_path: Path, source: str, target: str, order: str) -> None:
    Image.fromarray(picture()).save(tmp_path / source, exif=exif_block(order, 6), quality=95)
    photo = read_image(tmp_path / source)
    assert photo.pixels.shape == (64, 48, 3)
    write_image(tmp_path / target, photo.pixels, photo.icc, photo.exif)
    with Image.open(tmp_path / target) as back:
        exif = back.getexif()
        own, gps = exif.get_ifd(34665), exif.get_ifd(34853)
        assert back.size == (48, 64)
    assert (exif[271], exif[272], exif[274]) == ("Maker", "Model 1", 1)  # the pixels are upright
    assert (own[33434], own[34855], own[36867]) == (1 / 250, 200, "then")
    assert (gps[1], gps[2]) == ("N", (52.0, 30.0, 10.0))
    assert not {40962, 40963, 37500} & set(own)  # size, private notes
    assert np.abs(read_image(tmp_path / target).pixels.astype(int) - photo.pixels).mean() < 3


def test_a_thumbnail_stays_behind() -> None:
    first = {271: make_tag(ASCII, "Maker"), 513: make_tag(LONG, [500]), 514: make_tag(LONG, [9])}
    kept = collect_exif(b"Exif\0\0II*\0\x08\0\0\0" + pack_tags(first, {}, 8))
    assert kept is not None
    assert set(read_directory(kept)) == {271, 274}


@pytest.mark.parametrize("data", [b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" * 9])
def test_damaged_exif_is_none(data: bytes) -> None:
    assert collect_exif(data) is None
    assert exif_orientation(data) == 1


def test_what_is_damaged_in_exif_is_left_out() -> None:
    block = bytearray(b"II*\0\x08\0\0\0" + pack_tags(
        {271: make_tag(ASCII, "Maker of it"), 272: make_tag(ASCII, "Model of it"), 274: make_tag(SHORT, [3])},
        {34665: {33434: make_tag(RATIONAL, [1, 250])}}, 8))  # fmt: skip
    struct.pack_into("<I", block, 10 + 8, 2**32 - 4)  # where the first value is
    assert exif_orientation(bytes(block)) == 3
    kept = collect_exif(bytes(block))
    assert kept is not None
    first = read_directory(kept)
    assert set(first) == {272, 274, 34665}
    assert read_children(kept, first, 34665)[0][33434].numbers == (1, 250)


def test_tags_that_lie_upon_each_other_do_not_add_up() -> None:
    """Else a small file would be read as gigabytes."""
    count, long = 1000, 1 << 20
    entries = b"".join(struct.pack("<HHII", 1000 + index, UNDEFINED, long, 0) for index in range(count))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(long)
    assert sum(len(tag.data) for tag in read_directory(data).values()) == 4 * long
    assert read_directory(data, None, (1500,)).keys() == {1500}
    own = {34665: make_tag(LONG, [8])}
    kept = collect_exif(data[:4] + struct.pack("<I", len(data)) + data[8:] + pack_tags(own, {}, len(data)))
    assert kept is not None
    assert len(kept) < 5 * long


@pytest.mark.parametrize("size", [70_000, 1_100_000])
def test_exif_that_is_too_long_is_left_out(tmp_path: Path, size: int) -> None:
    first = {271: make_tag(ASCII, "Maker"), 270: make_tag(UNDEFINED, bytes(size))}
    exif = b"II*\0\x08\0\0\0" + pack_tags(first, {}, 8)
    for name, expected in (("a.jpg", None), ("a.png", "Maker" if size < 1 << 20 else None)):
        write_image(tmp_path / name, picture(), None, exif)
        with Image.open(tmp_path / name) as back:
            assert back.getexif().get(271) == expected


def test_exif_of_a_raw_photo(tmp_path: Path) -> None:
    exif = raw_exif(dng(tmp_path / "a.dng"))
    assert exif is not None
    assert read_directory(exif)[305].text == "tifffile.py"  # Software


@pytest.mark.parametrize("pixels", [picture(), picture()[..., 0]], ids=["rgb", "gray"])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
def test_a_colour_profile_is_written_where_it_fits(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    fits, other = (profile(b"RGB "), profile(b"GRAY"))[:: 1 if pixels.ndim == 3 else -1]
    if name == "a.webp" and pixels.ndim == 2:
        pytest.skip("WebP has no gray")
    for icc, expected in ((fits, fits), (other, None), (profile(b"CMYK"), None)):
        write_image(tmp_path / name, pixels, icc)
        with Image.open(tmp_path / name) as back:
            assert back.info.get("icc_profile") == expected
        assert read_image(tmp_path / name).icc == expected


@pytest.mark.parametrize("size", [65_519, 65_520, 200_000])
@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a.png", "a.webp", "a.tif"])
def test_a_long_colour_profile_is_kept(tmp_path: Path, name: str, size: int) -> None:
    icc = struct.pack(">I", size) + profile()[4:] + bytes(size - len(profile()))
    exif, said = collect_exif(exif_block()), []
    write_image(tmp_path / name, picture(), icc, exif, said.append)
    back = read_image(tmp_path / name)
    with Image.open(tmp_path / name) as other:
        assert other.info["icc_profile"] == icc
        assert other.getexif()[271] == "Maker"
    assert (back.icc, back.exif, said) == (icc, exif, [])
    assert np.abs(back.pixels.astype(int) - picture()).mean() < 3


@pytest.mark.parametrize(
    ("name", "icc", "says"),
    [
        ("a.bmp", profile(), r"a\.bmp is without the colour profile of its source, for \.bmp holds none"),
        ("a.exr", profile(), r"\.exr holds none"),
        ("a.png", profile(b"GRAY"), "that is of GRAY"),
        ("a.jpg", profile() + bytes(255 * 65_519), "it is too long"),
        ("a.png", profile()[:100], "broken"),
    ],
)
def test_a_colour_profile_that_is_left_out_is_told(tmp_path: Path, name: str, icc: bytes, says: str) -> None:
    said: list[str] = []
    write_image(tmp_path / name, picture(), icc, None, said.append)
    assert len(said) == 1
    assert re.search(says, said[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_with_profile_and_exif_is_whole(tmp_path: Path, dtype: type) -> None:
    pixels = (picture() / 255).astype(dtype) if dtype == np.float32 else picture().astype(dtype)
    exif = collect_exif(exif_block())
    write_image(tmp_path / "a.tif", pixels, profile(), exif)
    if dtype == np.uint8:
        with Image.open(tmp_path / "a.tif") as other:
            np.testing.assert_array_equal(np.asarray(other), pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 1
        assert tiff.pages[0].tags["ExifTag"].value["ISOSpeedRatings"] == 200
    back = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(back.pixels, pixels)
    assert (back.icc, back.exif) == (profile(), exif)


def test_the_profile_of_a_foreign_tiff_is_read(tmp_path: Path) -> None:
    for order in "<>":
        tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", iccprofile=profile(), byteorder=order)
        assert read_image(tmp_path / "a.tif").icc == profile()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_is_known_without_decoding(tmp_path: Path, name: str, orientation: int) -> None:
    exif = {} if name == "a.bmp" else {"exif": exif_block(orientation=orientation)}
    Image.fromarray(picture()).save(tmp_path / name, **exif)
    size = image_size(tmp_path / name)
    assert size == ((48, 64) if orientation == 6 and exif else (64, 48))
    assert size == read_image(tmp_path / name).pixels.shape[1::-1]


def test_the_size_of_a_raw_photo_is_known_without_decoding(tmp_path: Path) -> None:
    for orientation in (1, 6):
        path = dng(tmp_path / "a.dng", orientation=orientation)
        assert raw_size(path) == read_raw(path).shape[1::-1]
    path.write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"a\.dng"):
        raw_size(path)


@pytest.mark.parametrize("size", [(48, 64), (17, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_openexr_holds_linear_light(tmp_path: Path, size: tuple[int, int], channels: int) -> None:
    pixels = np.concatenate([picture(*size), 255 - picture(*size)[..., :1]], 2)[..., :channels]
    write_image(tmp_path / "a.exr", pixels)
    with av.open(str(tmp_path / "a.exr")) as container:  # FFmpeg's own decoder
        frame = next(container.decode(video=0))
        dtype = np.float16 if "f16" in frame.format.name else np.float32
        planes = [np.frombuffer(plane, dtype).reshape(size[0], -1)[:, : size[1]] for plane in frame.planes]
        names = {1: "Y", 3: "GBR", 4: "GBRA"}[channels]
        assert (frame.width, frame.height, len(planes)) == (size[1], size[0], len(names))
    unit = pixels / 255.0
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    if channels == 4:
        linear = np.concatenate([linear[..., :3] * unit[..., 3:], unit[..., 3:]], 2)
    for plane, name in zip(planes, names, strict=True):
        expected = linear[..., max(0, "RGBA".find(name))]
        np.testing.assert_allclose(plane, expected, rtol=1e-3, atol=1e-6)


def test_openexr_is_not_read(tmp_path: Path) -> None:
    write_image(tmp_path / "a.exr", picture())
    with pytest.raises(InputError, match=r"a\.exr is not an image that msr reads"):
        read_image(tmp_path / "a.exr")


def test_heif_without_its_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"a\.heic is HEIF, which needs the package pillow_heif"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("bits", [8, 10])
def test_heif_is_read_upright_with_all_that_belongs_to_it(tmp_path: Path, bits: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    deep = picture().astype(np.uint16) * 257
    mode, data = ("RGB", picture()) if bits == 8 else ("RGB;16", deep)
    made = heif.from_bytes(mode, (64, 48), data.tobytes())
    made.info["exif"] = exif_block()
    made.info["icc_profile"], made.info["icc_profile_type"] = profile(), "prof"
    made.save(tmp_path / "a.heic", quality=95, bit_depth=bits)
    photo = read_image(tmp_path / "a.heic")
    assert isinstance(photo, Picture)
    assert photo.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    top = np.iinfo(photo.pixels.dtype).max
    assert np.abs(photo.pixels / top - picture() / 255).mean() < 0.02
    assert (photo.icc, image_size(tmp_path / "a.heic")) == (profile(), (64, 48))
    assert photo.exif == collect_exif(exif_block())
    whole = (tmp_path / "a.heic").read_bytes()
    for end in (40, 200, len(whole) // 2):
        (tmp_path / "a.heic").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"a\.heic is damaged"):
            read_image(tmp_path / "a.heic")


def test_opencv_can_read_what_is_written(tmp_path: Path) -> None:
    exif = collect_exif(exif_block())
    for name in ("a.tif", "a.png"):
        write_image(tmp_path / name, picture(), profile(), exif)
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / name))[..., ::-1], picture())
