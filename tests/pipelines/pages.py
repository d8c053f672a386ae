"""What the tests of comparison pages compare."""

from pathlib import Path

import numpy as np
import torch

from msr import io
from msr.pipelines.compare_page import Album, Shown, write_page

RED, BLUE, GREEN = (230, 20, 20), (20, 20, 230), (20, 200, 20)


def save(path: Path, pixels: np.ndarray) -> Path:
    io.write_image(path, pixels)
    return path


def plain(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Path:
    return save(path, np.full((size[1], size[0], 3), colour, np.uint8))


def folder(path: Path, colours: list[tuple[int, int, int]]) -> Path:
    path.mkdir()
    for index, colour in enumerate(colours):
        plain(path / f"{index:03}.png", colour)
    return path


def noise(path: Path, size: int, seed: int = 0) -> Path:
    return save(path, np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


EVIL = "<img src=x onerror=alert(1)>&'\"@DATA@ <script>alert(2)<!--.png"
CLOSING = "</script></title><script>alert(3)</script>"


def evil_page(target: Path) -> Path:
    """A page of names that a file cannot have either, since they hold a slash."""
    album = Album(1, 10**6, 1)
    album.add(0, 0.0, [torch.zeros(1, 3, 48, 64), torch.ones(1, 3, 48, 64)], [None, None])
    sources = [Shown(name, 64, 48, 64, None) for name in (EVIL, CLOSING)]
    write_page(target, EVIL + CLOSING, sources, album, [], (["", CLOSING], [[EVIL, CLOSING]]), [CLOSING, EVIL])
    return target
