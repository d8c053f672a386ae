"""Pictures encoded in memory."""

import struct
from pathlib import Path

import numpy as np
import pytest
from made import picture

from msr.errors import WorkError
from msr.io import encode_picture, read_image


def profile() -> bytes:
    """An RGB display profile: header and one private tag (ICC.1:2010), long enough for libpng when packed."""
    header = struct.pack(">I4sI4s4s4s", 400, b"test", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    white = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    header = (header + bytes(28) + white).ljust(128, b"\0")
    return header + struct.pack(">I4sII", 1, b"prvt", 144, 256) + np.random.default_rng(0).bytes(256)


@pytest.mark.parametrize("icc", [None, profile(), b"no profile"])
def test_png_is_exact(tmp_path: Path, icc: bytes | None) -> None:
    kind, data = encode_picture(picture(), None, icc)
    (tmp_path / "a.png").write_bytes(data)
    back = read_image(tmp_path / "a.png")
    assert kind == "image/png"
    np.testing.assert_array_equal(back.pixels, picture())
    assert back.icc == (icc if icc == profile() else None)


def test_jpeg_keeps_the_colours_of_single_pixels(tmp_path: Path) -> None:
    """Red and blue columns would become purple with chroma at half size."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, 0::2, 0] = stripes[:, 1::2, 2] = 200
    kind, data = encode_picture(stripes, 95, profile())
    (tmp_path / "a.jpg").write_bytes(data)
    back = read_image(tmp_path / "a.jpg")
    assert kind == "image/jpeg"
    assert back.icc == profile()
    assert np.abs(back.pixels.astype(int) - stripes).max() <= 20
    long = profile() + bytes(100_000)
    (tmp_path / "a.jpg").write_bytes(encode_picture(stripes, 95, long)[1])
    assert read_image(tmp_path / "a.jpg").icc == long
    assert len(encode_picture(picture(), 50)[1]) < len(encode_picture(picture(), 95)[1])


def test_what_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 4\) of uint8"):
        encode_picture(np.zeros((4, 4), np.uint8), None)
    with pytest.raises(ValueError, match="of float32"):
        encode_picture(np.zeros((4, 4, 3), np.float32), None)
    with pytest.raises(WorkError, match="70000x1 pixels"):
        encode_picture(np.zeros((1, 70000, 3), np.uint8), 90)
