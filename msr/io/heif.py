"""HEIF pictures, as telephones write them, where the package pillow_heif is installed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from msr.errors import InputError

HEIF_SUFFIXES = (".heic", ".heif", ".hif")

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(data: bytes) -> bool:
    """Whether a file begins as HEIF does (ISO/IEC 23008-12, by its brand).

    Example:
        >>> is_heif(b"\\0\\0\\0\\x1cftypheic")
        True
    """
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS


class HeifPicture:
    """An opened HEIF file: its size, upright, before anything is decoded, then its pixels.

    Source: libheif through pillow_heif, which applies the turns that the file states and keeps 10 and 12 bits.

    Args:
        data: the file.
        name: how an error names it.

    Raises:
        InputError: pillow_heif is not installed, or the file is damaged.

    Example:
        >>> HeifPicture(Path("photo.heic").read_bytes(), "photo.heic").size    # doctest: +SKIP
        (4032, 3024)
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._name = name
        try:
            library = importlib.import_module("pillow_heif")
        except ImportError:
            raise InputError(f"{name} is HEIF, which needs the package pillow_heif (pip install pillow_heif)") from None
        try:
            self._file: Any = library.open_heif(data, convert_hdr_to_8bit=False)
        except (ValueError, RuntimeError, SyntaxError, EOFError, OSError, MemoryError) as error:
            raise InputError(f"{name} is damaged: {' '.join(str(error).split())}") from None
        self.size: tuple[int, int] = self._file.size

    @property
    def icc(self) -> bytes | None:
        """The colour profile."""
        return self._file.info.get("icc_profile") or None

    @property
    def exif(self) -> bytes | None:
        """The EXIF block."""
        return self._file.info.get("exif") or None

    def decode(self) -> np.ndarray:
        """Decode to ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``, uint8 or uint16."""
        try:
            pixels = np.array(self._file)
        except (ValueError, RuntimeError, EOFError, OSError, MemoryError) as error:
            raise InputError(f"{self._name} is damaged: {' '.join(str(error).split())}") from None
        if pixels.dtype == np.uint16:  # 10 or 12 bits in the upper ones of 16, with zeros below
            bits = int(self._file.info.get("bit_depth") or 16)
            top = 65535 >> (16 - bits) << (16 - bits)
            pixels = np.rint(pixels * np.float32(65535 / top)).astype(np.uint16)
        return pixels
