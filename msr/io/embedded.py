"""Pictures encoded for a place inside of another file, as a page holds them."""

from __future__ import annotations

import cv2
import numpy as np

from msr.errors import WorkError
from msr.io.jpeg import LONGEST_PROFILE, with_profile


def encode_picture(pixels: np.ndarray, quality: int | None, icc: bytes | None = None) -> tuple[str, bytes]:
    """Encode a picture in memory as PNG (ISO/IEC 15948) or as JPEG (ITU-T T.81) with chroma at full size.

    Args:
        pixels: ``(H, W, 3)`` RGB, uint8.
        quality: of the JPEG, 1 to 100; None: PNG, without loss.
        icc: a colour profile to embed.

    Returns:
        The media type and the encoded bytes.

    Raises:
        ValueError: another shape or dtype.
        WorkError: the encoder refuses, for example more than 65500 pixels a side in JPEG.

    Example:
        >>> encode_picture(np.zeros((2, 2, 3), np.uint8), None)[0]
        'image/png'
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture to embed is (H, W, 3) uint8, got {pixels.shape} of {pixels.dtype}")
    suffix, kind, options = ".png", "image/png", [cv2.IMWRITE_PNG_COMPRESSION, 4]
    if quality is not None:
        suffix, kind = ".jpg", "image/jpeg"
        options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    swapped = np.ascontiguousarray(pixels[..., ::-1])
    try:
        done = False
        if icc is not None and quality is None:
            chunk = np.frombuffer(icc, np.uint8)
            done, data = cv2.imencodeWithMetadata(suffix, swapped, [cv2.IMAGE_METADATA_ICCP], [chunk], options)
        if not done:  # no profile, or one that the encoder finds broken
            done, data = cv2.imencode(suffix, swapped, options)
    except (cv2.error, MemoryError) as error:
        raise WorkError(f"cannot encode a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels: {error}") from None
    if not done:
        raise WorkError(f"cannot encode a picture of {pixels.shape[1]}x{pixels.shape[0]} pixels")
    encoded = data.tobytes()
    if icc is not None and quality is not None and len(icc) <= LONGEST_PROFILE:
        encoded = with_profile(encoded, icc)
    return kind, encoded
