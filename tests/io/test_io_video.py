"""Clips keep their frames, times, colours and audio; truncated ones are found out."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made import RATE, clip, picture
from passing import passed

from msr.errors import InputError, WorkError
from msr.io import (
    ClipFormat,
    EncoderSettings,
    FolderReader,
    FolderWriter,
    Frame,
    VideoReader,
    assemble,
    check_video_suffix,
    planar_format,
    write_image,
)
from msr.io.planes import to_rgb


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_frames_are_those_that_were_encoded(tmp_path: Path) -> None:
    with VideoReader(clip(tmp_path / "a.mp4", 5)) as reader:
        assert (reader.format.width, reader.format.height, reader.frames) == (64, 48, 5)
        assert reader.format.rate == RATE
        frames = list(reader)
    assert len(frames) == 5
    for index, frame in enumerate(frames):
        difference = np.abs(frame.pixels[:, 8:-8].astype(int) - np.roll(picture(), index, 1)[:, 8:-8])
        assert difference.mean() < 4, index


@pytest.mark.parametrize(
    ("source", "codec", "audio", "target"),
    [
        ("a.mp4", "libx264", "aac", "b.mp4"),
        ("a.mkv", "libx264", "aac", "b.mkv"),
        ("a.mp4", "libx264", "aac", "b.mov"),
        ("a.webm", "libvpx-vp9", "libopus", "b.webm"),
        ("a.avi", "mpeg4", "", "b.mkv"),
    ],
)
def test_times_and_audio_go_along(tmp_path: Path, source: str, codec: str, audio: str, target: str) -> None:
    clip(tmp_path / source, 12, codec=codec, audio=audio)
    passed(tmp_path / source, tmp_path / target, settings=EncoderSettings())
    before, after = times(tmp_path / source), times(tmp_path / target)
    assert len(before) == len(after) == 12
    # Matroska keeps whole milliseconds.
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= Fraction(1, 1000)
    if audio:
        packets = audio_packets(tmp_path / source)
        assert packets
        assert audio_packets(tmp_path / target) == packets


def test_a_raw_stream_without_times_gets_them_from_its_rate(tmp_path: Path) -> None:
    passed(clip(tmp_path / "a.h264", 6), tmp_path / "b.mp4")
    seen = times(tmp_path / "b.mp4")
    assert [float(time) for time in seen] == pytest.approx([float(index / RATE) for index in range(6)], abs=1e-4)


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (6, False), (2, False), (1, True), (9, False)])
@pytest.mark.parametrize("bits", [8, 10])
def test_planes_are_shown_in_the_colours_that_their_tags_say(matrix: int, full: bool, bits: int) -> None:
    """Y, U and V by the equations of ITU-T H.273, of one colour."""
    colour = np.array([200, 60, 30]) / 255
    red, blue = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 2: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    chroma = (colour[2] - luma) / 2 / (1 - blue), (colour[0] - luma) / 2 / (1 - red)
    top, unit = (1 << bits) - 1, 1 << (bits - 8)
    codes = [luma * top, *(top * value + 128 * unit for value in chroma)]
    if not full:
        codes = [unit * (16 + 219 * luma), *(unit * (128 + 224 * value) for value in chroma)]
    pixels = planar_format("yuv420p" if bits == 8 else "yuv420p10le")
    form = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), pixels, matrix=matrix, full_range=full)
    planes = [np.full(size, round(c), pixels.dtype) for c, size in zip(codes, pixels.plane_sizes(64, 48), strict=True)]
    shown = Frame(tuple(planes), 0, 1, form).pixels
    assert shown.dtype == pixels.dtype
    assert np.abs(shown / np.iinfo(shown.dtype).max - colour).max() < 0.012


def test_a_display_rotation_is_known_and_not_applied(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 2)
    data = path.read_bytes()
    # The matrix of the track header (ISO/IEC 14496-12): a quarter turn clockwise.
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    assert struct.unpack_from(">iii", data, at) == (0x10000, 0, 0)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 * 0x10000, 0, 0x40000000)
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    with VideoReader(path) as reader:
        assert (reader.format.width, reader.format.height) == (64, 48)
        assert (reader.format.upright_size, reader.format.turns, reader.format.mirrored) == ((48, 64), 3, False)
        pixels = next(iter(reader)).pixels
    assert np.abs(pixels.astype(int) - np.rot90(picture(), -1)).mean() < 4


@pytest.mark.parametrize("part", [0.02, 0.4, 0.8])
@pytest.mark.parametrize(
    ("name", "codec", "faststart"),
    [("a.mp4", "libx264", False), ("a.mp4", "libx264", True), ("a.mkv", "libx264", False), ("a.avi", "mpeg4", False)],
)
def test_truncated_clips_are_found_out(tmp_path: Path, name: str, codec: str, faststart: bool, part: float) -> None:
    path = clip(tmp_path / name, 20, codec=codec)
    if faststart:
        with (
            av.open(str(path)) as source,
            av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "faststart"}) as out,
        ):
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        path = tmp_path / "f.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises((InputError, WorkError), match="truncated"), VideoReader(path) as reader:
        list(reader)


def test_whole_clips_are_not_called_truncated(tmp_path: Path) -> None:
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")):
        for frames in (1, 2, 25):
            with VideoReader(clip(tmp_path / name, frames, codec=codec)) as reader:
                assert len(list(reader)) == frames, (name, frames)


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"words, not frames" * 100)
    (tmp_path / "b.mp4").write_bytes(b"")
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4", tmp_path):
        with pytest.raises(InputError):
            VideoReader(path)
    with pytest.raises(InputError, match="must end in"):
        check_video_suffix(tmp_path / "a.xyz")


def test_audio_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", 3, audio="aac")
    with pytest.raises(InputError, match=r"\.webm cannot hold the aac audio"):
        passed(tmp_path / "a.mp4", tmp_path / "b.webm")
    assert not (tmp_path / "b.webm").exists()


def test_a_failure_while_joining_leaves_the_old_clip(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"old")
    source = clip(tmp_path / "a.mp4", 6)
    passed(source, tmp_path / "c.mp4")
    damaged = tmp_path / "job" / "3.mkv"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with VideoReader(source) as reader, pytest.raises(WorkError, match=r"3\.mkv is no segment of msr, or is damaged"):
        assemble(tmp_path / "b.mp4", [tmp_path / "job" / "0.mkv", damaged], source, reader.format)
    assert (tmp_path / "b.mp4").read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4", "c.mp4", "job"}


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in (2, 10, 1):
        write_image(tmp_path / "in" / f"f{index}.png", np.full((6, 8, 3), index, np.uint8))
    with FolderReader(tmp_path / "in") as reader:
        frames = list(reader)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [1, 2, 10]
    assert [frame.pts for frame in frames] == [0, 1, 2]
    with FolderWriter(tmp_path / "out") as out:
        for frame in frames:
            out.write(frame.pixels, frame.pts, frame.duration)
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["000000.png", "000001.png", "000002.png"]


def test_half_a_folder_of_frames_is_not_left(tmp_path: Path) -> None:
    def fail() -> None:
        with FolderWriter(tmp_path / "half") as out:
            out.write(picture(), 0, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("codec", "tag", "full"),
    [("ffv1", 0, True), ("ffv1", 1, False), ("ffv1", 2, True), ("libx264", 0, False), ("libx264", 2, True)],
)
def test_gray_without_a_tag_is_that_of_pictures(tmp_path: Path, codec: str, tag: int, full: bool) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "gray"
        stream.codec_context.color_range = tag
        frame = av.VideoFrame.from_ndarray(np.full((48, 64), 8, np.uint8), format="gray")
        frame.color_range = tag
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with VideoReader(tmp_path / "a.mkv") as clip:
        assert clip.format.full_range is full


@pytest.mark.parametrize(
    ("name", "full", "value"), [("gray", False, 235), ("gray", True, 255), ("gray10le", False, 940)]
)
def test_gray_is_expanded_by_its_range(name: str, full: bool, value: int) -> None:
    pixels = planar_format(name)
    clip = ClipFormat(2, 2, Fraction(25), Fraction(1, 25), pixels, full_range=full)
    rgb = to_rgb([np.array([[value, 0], [0, 0]], pixels.dtype)], clip)
    assert rgb.shape == (2, 2, 3)
    assert rgb[0, 0].tolist() == [np.iinfo(rgb.dtype).max] * 3
    assert rgb[1, 1].tolist() == [0, 0, 0]
