"""Pipes of y4m and patterns of pictures: in and out, and what they cannot be."""

import io
import itertools
import os
import shutil
import struct
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made import picture

from msr.errors import InputError, WorkError
from msr.io import (
    ClipFormat,
    EncoderSettings,
    FolderReader,
    FolderWriter,
    VideoReader,
    Y4mReader,
    Y4mWriter,
    join_folders,
    open_clip,
    output_format,
    planar_format,
    read_image,
    write_image,
)

FORMATS = ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gray10le"]


def _profile() -> bytes:
    """An RGB display profile: header and one private tag (ICC.1:2010), long enough for libpng."""
    profile = bytearray(128) + struct.pack(">I4sII", 1, b"test", 144, 256) + bytes(range(256))
    profile[0:4], profile[8:12] = struct.pack(">I", len(profile)), b"\x02\x40\0\0"
    profile[12:24], profile[36:40] = b"mntrRGB XYZ ", b"acsp"
    profile[68:80] = struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return bytes(profile)


PROFILE = _profile()


def random_planes(clip: ClipFormat, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = clip.pixels
    return [
        rng.integers(0, 1 << pixels.bits, size, pixels.dtype) for size in pixels.plane_sizes(clip.width, clip.height)
    ]


@pytest.mark.parametrize("size", [(64, 48), (33, 31)])
@pytest.mark.parametrize("name", FORMATS)
def test_y4m_comes_back_and_ffmpeg_reads_the_same(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    rate = Fraction(30000, 1001)
    clip = ClipFormat(*size, rate, 1 / rate, planar_format(name), full_range=True, aspect=Fraction(32, 27))
    frames = [random_planes(clip, seed) for seed in range(3)]
    path = tmp_path / "a.y4m"
    with path.open("wb") as file, Y4mWriter(file, clip) as out:
        for index, planes in enumerate(frames):
            out.write(planes, index, 1)
    with path.open("rb") as file, Y4mReader(file) as ours, VideoReader(path) as theirs:
        assert (ours.format.rate, ours.format.pixels, ours.format.aspect) == (rate, clip.pixels, clip.aspect)
        assert ours.format.full_range
        assert (theirs.format.rate, theirs.format.pixels) == (rate, clip.pixels)
        assert theirs.format.full_range
        for planes, a, b in itertools.zip_longest(frames, ours, theirs):
            for x, y, z in zip(planes, a.planes, b.planes, strict=True):
                np.testing.assert_array_equal(x, y)
                np.testing.assert_array_equal(x, z)


@pytest.mark.parametrize("location", ["left", "center", "topleft"])
def test_y4m_says_where_chroma_lies(location: str) -> None:
    clip = ClipFormat(4, 4, Fraction(25), Fraction(1, 25), chroma_location=location)  # type: ignore[arg-type]
    file = io.BytesIO()
    with Y4mWriter(file, clip) as out:
        out.write(random_planes(clip), 0, 1)
    file.seek(0)
    assert Y4mReader(file).format.chroma_location == location


@pytest.mark.parametrize(
    ("words", "full"),
    [("Cmono", True), ("Cmono XCOLORRANGE=LIMITED", False), ("C420", False), ("C420 XCOLORRANGE=FULL", True)],
)
def test_the_range_that_y4m_means(tmp_path: Path, words: str, full: bool) -> None:
    data = f"YUV4MPEG2 W4 H4 F25:1 {words}\n".encode() + b"FRAME\n" + bytes(24 if "420" in words else 16)
    (tmp_path / "a.y4m").write_bytes(data)
    with Y4mReader(io.BytesIO(data)) as ours, VideoReader(tmp_path / "a.y4m") as theirs:
        assert ours.format.full_range is theirs.format.full_range is full


def test_what_ffmpeg_writes_as_y4m_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.y4m"
    with av.open(str(path), "w", format="yuv4mpegpipe") as out:
        stream = out.add_stream("wrapped_avframe", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(picture(seed=index), format="rgb24").reformat(format="yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with path.open("rb") as file, Y4mReader(file) as ours, VideoReader(path) as theirs:
        assert ours.format.rate == 24
        count = 0
        for a, b in zip(ours, theirs, strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
            count += 1
    assert count == 3


def test_y4m_through_a_pipe(tmp_path: Path) -> None:
    """Frames are read as they come, in pieces, and the standard input is one of the clips."""
    clip = ClipFormat(64, 48, Fraction(25), Fraction(1, 25))
    frames = [random_planes(clip, seed) for seed in range(5)]
    program = (
        "from msr.io import open_clip, Y4mWriter; import sys\n"
        "with open_clip('-', start=0.04, duration=0.12) as clip, Y4mWriter(sys.stdout.buffer, clip.format) as out:\n"
        "    for frame in clip: out.write(frame.planes, frame.pts, frame.duration)\n"
    )
    read, write = os.pipe()

    def feed() -> None:
        with os.fdopen(write, "wb", buffering=0) as pipe:
            file = io.BytesIO()
            with Y4mWriter(file, clip) as out:
                for index, planes in enumerate(frames):
                    out.write(planes, index, 1)
            data = file.getvalue()
            for at in range(0, len(data), 1000):
                pipe.write(data[at : at + 1000])

    feeder = threading.Thread(target=feed)
    feeder.start()
    done = subprocess.run([sys.executable, "-c", program], stdin=read, capture_output=True, check=True, timeout=60)
    os.close(read)
    feeder.join()
    with Y4mReader(io.BytesIO(done.stdout)) as result:
        got = list(result)
    assert len(got) == 3
    assert all(np.array_equal(x, y) for x, y in zip(frames[1], got[0].planes, strict=True))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not y4m"),
        (b"RIFF....", "not y4m"),
        (b"YUV4MPEG2 W0 H4 F25:1\n", "declares 0x4 pixels"),
        (b"YUV4MPEG2 W999999999 H999999999 F25:1\n", "declares 999999999x999999999 pixels"),
        (b"YUV4MPEG2 W-4 H4\n", "declares 0x4 pixels"),
        (b"YUV4MPEG2 W4 H4 F25:1 It\n", "interlaced"),
        (b"YUV4MPEG2 W4 H4 F25:1 C411\n", "format 411"),
        (b"YUV4MPEG2 " + b"X" * 5000 + b"\n", "not y4m"),
    ],
)
def test_what_is_no_y4m_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=f"the input .*{says}|the input is not y4m"):
        Y4mReader(io.BytesIO(data))


def test_y4m_that_ends_too_early() -> None:
    head = b"YUV4MPEG2 W4 H4 F0:0 Cmono\n"
    for rest, says in (
        (b"FRAME\n12345", "ends within frame 0"),
        (b"FRA", "ends before frame 0"),
        (b"FRUME\n", "damaged"),
    ):
        with pytest.raises(WorkError, match=says), Y4mReader(io.BytesIO(head + rest)) as clip:
            list(clip)
    with pytest.raises(WorkError, match="only 0 frames"):
        Y4mReader(io.BytesIO(head)).skip(1)


def test_what_y4m_holds_of_other_formats() -> None:
    source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), planar_format("gbrp"), display_matrix=(0,) * 9)
    written = output_format(source, 64, 48, EncoderSettings(), ".y4m")
    assert (written.pixels.name, written.matrix_used, written.full_range) == ("yuv444p", 6, False)
    assert written.display_matrix is None
    with pytest.raises(InputError, match="no --codec"):
        output_format(source, 64, 48, EncoderSettings("h264"), ".y4m")


def test_a_pattern_of_pictures_is_a_clip(tmp_path: Path) -> None:
    for index in range(8, 12):
        write_image(tmp_path / f"shot-{index:03d}.png", np.full((6, 8, 3), index, np.uint8))
    write_image(tmp_path / "shot-1.png", np.zeros((6, 8, 3), np.uint8))  # another shape of number
    with open_clip(tmp_path / "shot-%03d.png", rate=Fraction(50), start=0.02, duration=0.04) as clip:
        assert isinstance(clip, FolderReader)
        assert (clip.frames, clip.format.rate, clip.format.pixels.kind) == (2, 50, "rgb")
        assert [int(frame.planes[0][0, 0]) for frame in clip] == [9, 10]
    with open_clip(tmp_path / "shot-%d.png") as clip:
        assert [int(frame.planes[1][0, 0]) for frame in clip] == [0]
    (tmp_path / "shot-010.png").unlink()
    with pytest.raises(InputError, match=r"shot-010\.png is missing"):
        open_clip(tmp_path / "shot-%03d.png")
    with pytest.raises(InputError, match="there are no pictures"):
        open_clip(tmp_path / "none-%03d.png")
    with pytest.raises(InputError, match="no picture from 9 s on"):
        FolderReader(tmp_path, start=9)


def test_pictures_are_written_in_parts_and_joined(tmp_path: Path) -> None:
    frames = [picture(seed=seed) for seed in range(5)]
    for target in (tmp_path / "out", tmp_path / "out-%04d.png"):
        job = [tmp_path / "job0", tmp_path / "job3"]
        name = "%06d.png" if target.name == "out" else "out-%04d.png"
        for folder, first, count in ((job[0], 0, 3), (job[1], 3, 2)):
            with FolderWriter(folder, name, first) as out:
                for index in range(first, first + count):
                    out.write([frames[index][..., i] for i in range(3)], index, 1)
        if target.name != "out":  # killed after the first part, and done again
            join_folders(target, job[:1])
        join_folders(target, job)
        assert not list(tmp_path.glob("**/.*"))
        where = target / "%06d.png" if target.name == "out" else target
        for index, frame in enumerate(frames):
            np.testing.assert_array_equal(read_image(str(where) % index).pixels, frame)
        for folder in job:
            shutil.rmtree(folder)
    with pytest.raises(InputError, match="must hold one number"):
        FolderWriter(tmp_path / "x", "frame.png")
    with pytest.raises(InputError, match="must end in"):
        FolderWriter(tmp_path / "x", "%d.mp4")


def test_deep_pictures_stay_deep_and_their_profile_goes_along(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    deep = picture().astype(np.uint16) * 257 + 3
    write_image(tmp_path / "in" / "0.png", deep, icc=PROFILE)
    with FolderReader(tmp_path / "in") as clip:
        assert clip.format.pixels.bits == 16
        written = output_format(clip.format, 64, 48, EncoderSettings(), ".png")
        assert written.pixels == clip.format.pixels
        assert output_format(clip.format, 64, 48, EncoderSettings(), ".jpg").pixels.bits == 8
        assert output_format(clip.format, 64, 48, EncoderSettings(), ".mp4").pixels.name == "yuv420p10le"
        with FolderWriter(tmp_path / "out", icc=clip.icc) as out:
            for frame in clip:
                out.write(frame.planes, frame.pts, frame.duration)
    result = read_image(tmp_path / "out" / "000000.png")
    np.testing.assert_array_equal(result.pixels, deep)
    assert result.icc == PROFILE
