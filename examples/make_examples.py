"""Makes the files of this folder: a photo, a clip and a burst, each as an original and reduced to a quarter.

Usage: python examples/make_examples.py PHOTO BURST_PHOTO CLIP
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from msr.degradation import burst_from_photo, degrade_bi, to_tensor
from msr.metrics import quantize

HERE = Path(__file__).parent
SCALE = 4
BURST_FRAMES = 8
CLIP_START, CLIP_FRAMES, CLIP_SIZE = 36, 30, (512, 288)


def read(path: Path) -> np.ndarray:
    """A picture as (H, W, 3) RGB, cut so that the scale divides its sides."""
    pixels = cv2.imread(str(path))[..., ::-1]
    height, width = (n // SCALE * SCALE for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[:height, :width])


def pixels_of(picture: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] to (H, W, 3) uint8."""
    return quantize(picture).mul(255).round().byte().permute(1, 2, 0).numpy()


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def read_clip(path: Path) -> tuple[list[np.ndarray], list[av.AudioFrame], Fraction]:
    """The frames, reduced by area so that the compression of the source does not show, their sound, and their rate."""
    with av.open(str(path)) as clip:
        video = clip.streams.video[0]
        rate = Fraction(video.average_rate)
        wanted = islice(clip.decode(video), CLIP_START, CLIP_START + CLIP_FRAMES)
        large = [frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in wanted]
        frames = [cv2.resize(pixels, CLIP_SIZE, interpolation=cv2.INTER_AREA) for pixels in large]
    with av.open(str(path)) as clip:
        begin, end = CLIP_START / rate, (CLIP_START + CLIP_FRAMES) / rate
        sound = [frame for frame in clip.decode(audio=0) if begin <= frame.time < end]
    return frames, sound, rate


def write_clip(path: Path, frames: list[np.ndarray], sound: list[av.AudioFrame], rate: Fraction, crf: int) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=rate)
        video.options = {"crf": str(crf), "preset": "slow"}
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=sound[0].sample_rate, bit_rate=64000)
        for pixels in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(video.encode())
        samples = 0
        for frame in sound:
            frame.pts, frame.time_base = samples, Fraction(1, frame.sample_rate)
            samples += frame.samples
            out.mux(audio.encode(frame))
        out.mux(audio.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("photo", "burst_photo", "clip"):
        parser.add_argument(name, type=Path)
    sources = parser.parse_args()

    photo = read(sources.photo)
    write(HERE / "photo-original.png", photo)
    write(HERE / "photo.png", pixels_of(degrade_bi(to_tensor(photo)[None], SCALE)[0]))

    scene = read(sources.burst_photo)
    frames, original = burst_from_photo(scene, BURST_FRAMES, SCALE, np.random.default_rng(0))
    write(HERE / "burst-original.png", pixels_of(original))
    for index, frame in enumerate(frames):
        write(HERE / "burst" / f"{index:02}.png", pixels_of(frame))

    originals, sound, rate = read_clip(sources.clip)
    small = degrade_bi(torch.stack([to_tensor(frame) for frame in originals]), SCALE)
    write_clip(HERE / "clip-original.mp4", originals, sound, rate, crf=10)
    write_clip(HERE / "clip.mp4", [pixels_of(frame) for frame in small], sound, rate, crf=4)


if __name__ == "__main__":
    main()
