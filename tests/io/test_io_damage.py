"""Clips that are cut off, damaged, interlaced or hostile are found out, and nothing partial is left."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import Recipe, corrupt, make, truncate, write
from passing import passed, read

from msr.errors import InputError, WorkError
from msr.io import ClipFormat, EncoderSettings, SegmentWriter, VideoReader, assemble, output_format, planar_format

LONG = Recipe(".mkv", frames=20, size=(160, 96))
SETTINGS = EncoderSettings(crf=0)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv420p"), ("prores_ks", "yuv422p10le")])
def test_a_damaged_packet_is_found_out_or_passed_over(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    recipe = Recipe(".mov" if suffix == ".mp4" else suffix, 20, (160, 96), codec, pix_fmt)
    path = corrupt(write(tmp_path / f"a{recipe.suffix}", recipe))
    with pytest.raises(WorkError, match=r"a\.m.. is (truncated or )?damaged at frame \d+"), VideoReader(path) as clip:
        list(clip)
    with VideoReader(path, keep_going=True) as clip:
        frames = list(clip)
        assert clip.damaged >= 1
    assert 19 <= len(frames) <= 20


def test_a_frame_that_the_decoder_drops_is_damage(tmp_path: Path) -> None:
    """In place of the sixth frame stands a unit that is none: the decoder leaves it out without an error."""
    source = write(tmp_path / "whole.mkv", Recipe(".mkv", 12, (64, 48), "libx265", options=(("g", "1"),)))
    path = tmp_path / "a.mkv"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for index, packet in enumerate(old.demux(video=0)):
            if not packet.size:
                continue
            written = packet
            if index == 5:
                written = av.Packet(b"\0\0\0\4\x26\1\xaf\x1d")
                written.pts, written.dts, written.time_base = packet.pts, packet.dts, packet.time_base
            written.stream = stream
            new.mux(written)
    with VideoReader(path) as clip, pytest.raises(WorkError, match="damaged at frame 5"):
        list(clip)
    with VideoReader(path, keep_going=True) as clip:
        shown = [(frame.pts, frame.duration) for frame in clip]
    # The frame before stays until the next.
    assert len(shown) == 11
    assert shown[4] == (160, 80)


def test_a_truncated_tail_is_found_out_or_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = truncate(write(tmp_path / "a.mkv", LONG))
    with VideoReader(path) as clip, pytest.raises(WorkError, match=r"truncated: it ends after .* of 0\.80 s"):
        list(clip)
    with VideoReader(path, keep_going=True) as clip:
        frames = list(clip)
    assert 3 < len(frames) < 20


def test_interlaced_frames_are_refused_or_deinterlaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Recipe(frames=6, interlaced=True))
    with pytest.raises(InputError, match=r"a\.mp4 is interlaced \(frame 0\); --deinterlace"):
        VideoReader(path)
    with VideoReader(path, deinterlace=True) as clip:
        frames = list(clip)
    assert [frame.pts * frame.format.time_base for frame in frames] == [Fraction(i, 25) for i in range(6)]
    assert {frame.duration * frame.format.time_base for frame in frames} == {Fraction(1, 25)}


def test_combed_motion_is_gone_after_deinterlacing(tmp_path: Path) -> None:
    """Two fields of a bar that moves: rows alternate between two places until they are deinterlaced."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(6):
            frame = av.VideoFrame(64, 48, "yuv420p")
            luma = np.full((48, 64), 40, np.uint8)
            luma[0::2, 8 * index : 8 * index + 12] = 200
            luma[1::2, 8 * index + 4 : 8 * index + 16] = 200
            np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(48, -1)[:, :64] = luma
            for plane in frame.planes[1:]:
                np.frombuffer(memoryview(plane), np.uint8)[:] = 128
            out.mux(stream.encode(frame))
        out.mux(stream.encode())

    def combing(luma: np.ndarray) -> float:
        rows = luma.astype(int)
        return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())

    with av.open(str(path)) as container:
        raw = [frame.to_ndarray()[:48] for frame in container.decode(video=0)]
    with VideoReader(path, deinterlace=True) as clip:
        clean = [frame.planes[0] for frame in clip]
    assert combing(clean[2]) < 0.2 * combing(raw[2])


def test_progressive_frames_are_not_touched_by_deinterlacing(tmp_path: Path) -> None:
    path = make(tmp_path, "plain")
    with VideoReader(path, deinterlace=True) as clip:
        for a, b in zip(clip, read(path), strict=True):
            assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))


def test_a_stretch_of_a_clip(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Recipe(frames=50))
    whole = read(path)
    with VideoReader(path, start=0.5, duration=0.5) as clip:
        assert clip.frames is not None
        assert abs(clip.frames - 12) <= 1
        stretch = list(clip)
    assert [frame.pts for frame in stretch] == [frame.pts for frame in whole[13:25]]
    assert np.array_equal(stretch[0].planes[0], whole[13].planes[0])
    with VideoReader(path) as clip:
        clip.skip(20)
        rest = list(clip)
    assert [frame.pts for frame in rest] == [frame.pts for frame in whole[20:]]
    with VideoReader(path) as clip, pytest.raises(WorkError, match="only 50 frames"):
        clip.skip(51)
    with pytest.raises(InputError, match="no frame from 9 s on"):
        VideoReader(path, start=9)
    for start, duration in ((float("nan"), None), (-1, None), (0, 0), (0, float("inf"))):
        with pytest.raises(InputError, match="seconds"):
            VideoReader(path, start=start, duration=duration)


def test_segments_of_different_encoders_are_not_joined(tmp_path: Path) -> None:
    source = make(tmp_path, "plain")
    with VideoReader(source) as clip:
        frames = list(clip)
        written = output_format(clip.format, 64, 48, SETTINGS, ".mp4")
    for number, settings in enumerate((SETTINGS, EncoderSettings(crf=30))):
        with SegmentWriter(tmp_path / f"{number}.mkv", written, settings, ".mp4") as out:
            out.write(frames[number].planes, frames[number].pts, 1)
    parts = [tmp_path / "0.mkv", tmp_path / "1.mkv"]
    with pytest.raises(WorkError, match=r"1\.mkv was written by another encoder"):
        assemble(tmp_path / "b.mp4", parts, source, written)
    with pytest.raises(WorkError, match="no segment of msr"):
        assemble(tmp_path / "b.mkv", [make(tmp_path, "vfr-mkv")], source, written)
    assert not (tmp_path / "b.mp4").exists()
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


def test_a_segment_that_fails_leaves_nothing(tmp_path: Path) -> None:
    written = ClipFormat(64, 48, Fraction(25), Fraction(1, 25))
    planes = [np.zeros(size, np.uint8) for size in written.pixels.plane_sizes(64, 48)]

    def fail() -> None:
        with SegmentWriter(tmp_path / "0.mkv", written, SETTINGS, ".mp4") as out:
            out.write(planes, 0, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(WorkError, match="no frames"), SegmentWriter(tmp_path / "0.mkv", written, SETTINGS, ".mp4"):
        pass
    with (
        pytest.raises(ValueError, match=r"expects planes .* got \[\(\(48, 64\), 'uint16'\)"),
        SegmentWriter(tmp_path / "0.mkv", written, SETTINGS, ".mp4") as out,
    ):
        out.write([planes[0].astype(np.uint16), *planes[1:]], 0, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    source = make(tmp_path, "plain")
    passed(source, tmp_path / "b.mp4", segment=8)
    written = ClipFormat(64, 48, Fraction(25), Fraction(1, 12800))
    part = tmp_path / f".c.{os.getpid()}.part.mp4"
    part.symlink_to("/dev/full")
    with pytest.raises(WorkError, match=r"cannot write .*c\.mp4: No space left on device"):
        assemble(tmp_path / "c.mp4", [tmp_path / "job" / "0.mkv"], source, written)
    assert not (tmp_path / "c.mp4").exists()


def test_encoders_and_formats_that_do_not_fit(tmp_path: Path) -> None:
    source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), planar_format("yuv444p10le"))
    for settings, suffix, says in (
        (EncoderSettings("teleprompter"), ".mp4", "teleprompter is no video encoder"),
        (EncoderSettings("h264"), ".webm", r"\.webm cannot hold video of libx264"),
        (EncoderSettings(pix_fmt="yuv999"), ".mp4", "yuv999 is no pixel format"),
        (EncoderSettings(), ".webm", "libsvtav1 cannot write 64x48 pixels as yuv444p10le"),
        (EncoderSettings("prores", pix_fmt="yuv420p"), ".mov", "prores_ks cannot write"),
    ):
        with pytest.raises(InputError, match=says):
            output_format(source, 64, 48, settings, suffix)
    written = output_format(source, 64, 48, EncoderSettings("ffv1"), ".mkv")
    with pytest.raises(InputError, match=r"ffv1 has no quality \(CRF\)"):
        SegmentWriter(tmp_path / "0.mkv", written, EncoderSettings("ffv1", crf=3), ".mkv")


@pytest.mark.parametrize(
    ("pix_fmt", "size", "suffix", "expected"),
    [
        ("yuv420p", (64, 48), ".mp4", "yuv420p"),
        ("yuv420p", (63, 48), ".mp4", "yuv444p"),
        ("yuv420p", (64, 47), ".mp4", "yuv422p"),
        ("yuv420p10le", (63, 47), ".mkv", "yuv444p10le"),
        ("yuv420p", (63, 47), ".webm", "yuv420p"),
        ("yuv420p12le", (64, 48), ".mp4", "yuv420p12le"),
        ("yuv420p9le", (64, 48), ".mp4", "yuv420p10le"),
        ("yuv440p", (64, 48), ".mp4", "yuv444p"),
        ("gray10le", (64, 48), ".mp4", "yuv420p10le"),
        ("gbrp", (64, 48), ".mp4", "yuv444p"),
    ],
)
def test_depth_and_subsampling_are_those_of_the_source_or_finer(
    pix_fmt: str, size: tuple[int, int], suffix: str, expected: str
) -> None:
    source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), planar_format(pix_fmt))
    assert output_format(source, *size, EncoderSettings(), suffix).pixels.name == expected


def test_a_tag_is_written_where_players_would_guess_otherwise() -> None:
    source = ClipFormat(640, 480, Fraction(25), Fraction(1, 25))
    assert output_format(source, 2560, 1920, EncoderSettings(), ".mp4").matrix == 6
    assert ClipFormat(2560, 1920, Fraction(25), Fraction(1, 25)).matrix_used == 1


def test_chroma_is_moved_where_the_container_has_no_word_for_its_place() -> None:
    source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25), chroma_location="center")
    assert output_format(source, 64, 48, EncoderSettings("vp9"), ".mp4").chroma_location == "left"
    assert output_format(source, 64, 48, EncoderSettings("vp9"), ".webm").chroma_location == "center"
    assert output_format(source, 64, 48, EncoderSettings(), ".mp4").chroma_location == "center"


#: Fields of an MP4 file (ISO/IEC 14496-12), as box, offset behind its name, value.
HOSTILE = {
    "time scale of zero": (b"mdhd", 16, 0),
    "time scale of 32 bits": (b"mdhd", 16, 0xFFFFFFFF),
    "endless": (b"mdhd", 20, 0xFFFFFFFF),
    "frames that last for days": (b"stts", 16, 0xFFFFFFFF),
    "two milliard frames": (b"stsz", 12, 0x7FFFFFFF),
    "frames behind the end": (b"stco", 12, 0xFFFFFF00),
    "65535 pixels a side": (b"avc1", 28, 0xFFFFFFFF),
    "an edit of minus two milliards": (b"elst", 12, 0x80000000),
    "a pixel of no height": (b"tkhd", 44, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("keep_going", [False, True])
def test_hostile_headers(tmp_path: Path, name: str, keep_going: bool) -> None:
    """An error in one sentence that names the file, or the frames."""
    box, offset, value = HOSTILE[name]
    data = bytearray(make(tmp_path, "plain").read_bytes())
    at = data.index(box) + offset
    path = tmp_path / "hostile.mp4"
    path.write_bytes(data[:at] + struct.pack(">I", value) + data[at + 4 :])
    try:
        with VideoReader(path, keep_going=keep_going) as clip:
            frames = list(clip)
    except (InputError, WorkError) as error:
        said = str(error)
    else:
        said = ""
        assert clip.format.time_base > 0
        assert 0 < len(frames) <= 8
        assert all(frame.duration > 0 for frame in frames)
    assert not said or "hostile.mp4" in said
    assert "\n" not in said
