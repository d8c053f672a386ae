"""RAW photos are developed to sRGB."""

from pathlib import Path

import numpy as np
import pytest
from made import dng

from msr.errors import InputError
from msr.io import read_raw


def test_a_dng_becomes_srgb(tmp_path: Path) -> None:
    linear = np.array([0.5, 0.25, 0.125])
    pixels = read_raw(dng(tmp_path / "a.dng", (0.5, 0.25, 0.125)))
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint16
    # IEC 61966-2-1, above the linear part.
    expected = 1.055 * linear ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(pixels[8:-8, 8:-8].reshape(-1, 3).mean(0) / 65535, expected, atol=0.002)


def test_brightness_is_not_adjusted(tmp_path: Path) -> None:
    dark = read_raw(dng(tmp_path / "dark.dng", (0.1, 0.1, 0.1)))[16, 24, 1] / 65535
    assert dark == pytest.approx(1.055 * 0.1 ** (1 / 2.4) - 0.055, abs=0.002)


def test_orientation_is_applied(tmp_path: Path) -> None:
    assert read_raw(dng(tmp_path / "a.dng", orientation=6)).shape == (48, 32, 3)


@pytest.mark.parametrize("content", [b"", b"no photo at all" * 9, None])
def test_what_is_no_raw_photo_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = dng(tmp_path / "a.dng")
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(InputError, match=r"a\.dng"):
        read_raw(path)
