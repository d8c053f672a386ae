"""Bursts in files, and what is said while they merge."""

import dataclasses
from pathlib import Path

import numpy as np
from made import picture

from msr.io import RawFrame, convert_depth, write_dng, write_image
from msr.pipelines import BurstOptions
from msr.pipelines.progress import Report

FRAMES = [np.roll(picture(), i, 1) for i in range(4)]
FIRST = BurstOptions(base="first")
LEARNED, HANDHELD = BurstOptions("learned", "first"), BurstOptions("handheld", "first")


class Notes(Report):
    """What is said and how far it is."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[tuple[str, int | None, int]] = []
        self.done = 0

    def begin(self, label: str, total: int | None, done: int) -> None:
        self.steps.append((label, total, done))
        self.done = 0

    def advance(self) -> None:
        self.done += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def shots(folder: Path, count: int = 4, name: str = "{}.png") -> list[Path]:
    """Frames of a picture that moves to the right by a pixel a frame."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name.format(index) for index in range(count)]
    for index, path in enumerate(paths):
        write_image(path, np.roll(picture(), index, 1))
    return paths


def raw_shots(folder: Path, count: int = 4, orientation: int = 1, pattern: str = "rggb") -> tuple[list[Path], RawFrame]:
    """RAW frames of a smooth picture, all in place, with a noise of their own; and a frame without noise."""
    folder.mkdir(exist_ok=True)
    rgb = convert_depth(picture(64, 96), "float32") * 0.6
    matrix = np.linalg.inv(np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.05, 0.25, 0.7]]))
    mosaic = np.empty((64, 96))
    for place, colour in enumerate(pattern):
        part = np.s_[place // 2 :: 2, place % 2 :: 2]
        mosaic[part] = rgb[(*part, "rgb".index(colour))]
    rng = np.random.default_rng(0)
    frame = RawFrame(
        np.zeros((2, 2), np.uint16), pattern, (64,) * 4, 4095, (2.0, 1.0, 1.5), matrix, (1e-4, 1e-6), orientation
    )
    made = [
        dataclasses.replace(frame, mosaic=np.rint(64 + 4031 * (mosaic + noise)).clip(0, 4095).astype(np.uint16))
        for noise in [0.0, *(rng.normal(0, 0.005, mosaic.shape) for _ in range(count))]
    ]
    paths = [folder / f"{index}.dng" for index in range(count)]
    for path, each in zip(paths, made[1:], strict=True):
        write_dng(path, each)
    return paths, made[0]
