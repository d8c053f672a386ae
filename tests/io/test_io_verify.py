"""The audit sees what other tools lose, and does not cry where nothing is lost."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from clips import Recipe, make, write
from passing import passed

from msr.errors import InputError
from msr.io import Finding, VideoReader, audit, worst


def lost(before: Path, after: Path) -> set[str]:
    return {row.what for row in audit(before, after) if row.verdict == "lost"}


Change = Callable[[av.VideoFrame, int], av.VideoFrame | None]


def remade(source: Path, target: Path, change: Change, **tags: Any) -> Path:
    """Decode and encode the pictures alone, as a careless tool does, at 25 frames a second."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream("libx264", rate=25, options={"qp": "4"})
        size, count = None, 0
        for index, decoded in enumerate(old.decode(video=0)):
            frame = change(decoded, index)
            if frame is None:
                continue
            if size is None:
                size = frame.width, frame.height
                stream.width, stream.height = size
                stream.pix_fmt = frame.format.name
                for key, value in tags.items():
                    setattr(stream.codec_context, key, value)
            frame.pts, frame.time_base, count = count, Fraction(1, 25), count + 1
            new.mux(stream.encode(frame))
        new.mux(stream.encode())
    return target


def kept(frame: av.VideoFrame, index: int) -> av.VideoFrame:
    return frame


def enlarged(frame: av.VideoFrame, index: int) -> av.VideoFrame:
    return frame.reformat(width=frame.width * 2, height=frame.height * 2)


def test_a_clip_is_itself(tmp_path: Path) -> None:
    for name in ("plain", "pq", "subtitles-mkv", "cover", "gray", "rgb"):
        path = make(tmp_path, name)
        rows = audit(path, path)
        assert worst(rows) == "kept", rows
        assert len(rows) > 10


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("plain", {"audio 1", "tag title", "tag creation_time"}),
        ("vfr", {"times of the frames", "tag title", "tag creation_time"}),
        ("two-audio", {"audio 1", "audio 2", "tag title", "tag creation_time"}),
        ("subtitles-mkv", {"subtitle 1", "attachment 1", "tag title", "tag creation_time"}),
        ("chapters", {"chapters", "tag title", "tag creation_time"}),
        ("cover", {"audio 1", "cover 1", "tag title", "tag creation_time"}),
        ("anamorphic", {"shape of the picture", "tag title", "tag creation_time"}),
        ("rotated", {"orientation", "shape of the picture", "audio 1", "tag title", "tag creation_time"}),
        ("upside-down", {"orientation", "tag title", "tag creation_time"}),
        ("mirrored", {"orientation", "tag title", "tag creation_time"}),
        ("709", {"matrix", "primaries", "transfer", "tag title", "tag creation_time"}),
    ],
)
def test_what_a_careless_tool_loses(tmp_path: Path, name: str, missing: set[str]) -> None:
    source = make(tmp_path, name)
    assert lost(source, remade(source, tmp_path / "out.mp4", enlarged, sample_aspect_ratio=Fraction(1))) == missing


def test_frames_that_are_dropped_or_doubled(tmp_path: Path) -> None:
    source = make(tmp_path, "ntsc")
    dropped = remade(source, tmp_path / "b.mp4", lambda frame, index: None if index == 5 else frame)
    assert {"frames", "times of the frames"} <= lost(source, dropped)


def test_hdr_that_is_squeezed(tmp_path: Path) -> None:
    source = make(tmp_path, "pq")
    squeezed = remade(source, tmp_path / "b.mp4", lambda frame, index: frame.reformat(format="yuv420p"))
    expected = {"depth", "primaries", "transfer", "mastering display", "light level"}
    assert expected <= lost(source, squeezed)


def test_a_range_that_is_misread(tmp_path: Path) -> None:
    """The same code values under another tag: darker blacks, brighter whites."""

    def relabelled(frame: av.VideoFrame, index: int) -> av.VideoFrame:
        frame.color_range = ColorRange.JPEG
        return frame

    source = make(tmp_path, "709")
    wrong = remade(source, tmp_path / "b.mp4", relabelled, color_range=int(ColorRange.JPEG))
    assert "colours as shown" in lost(source, wrong)

    def converted(frame: av.VideoFrame, index: int) -> av.VideoFrame:
        return frame.reformat(src_color_range=ColorRange.MPEG, dst_color_range=ColorRange.JPEG)

    right = remade(source, tmp_path / "c.mp4", converted, color_range=int(ColorRange.JPEG), colorspace=1)
    assert "colours as shown" not in lost(source, right)
    assert {row.what: row.verdict for row in audit(source, right)}["range"] == "changed"


def test_a_matrix_that_is_misread(tmp_path: Path) -> None:
    """Saturated colours under BT.601, shown as BT.709."""
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.codec_context.colorspace = 6
        colours = np.zeros((48, 64, 3), np.uint8)
        colours[:, :32, 1], colours[:, 32:, 0] = 220, 220
        frame = av.VideoFrame.from_ndarray(colours, format="rgb24")
        frame = frame.reformat(format="yuv444p", dst_colorspace=Colorspace.ITU601)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    rows = {row.what: row for row in audit(source, remade(source, tmp_path / "b.mp4", kept, colorspace=1))}
    assert rows["colours as shown"].verdict == "lost"
    assert (rows["matrix"].before, rows["matrix"].after) == ("BT.601", "BT.709")
    assert "colours as shown" not in lost(source, remade(source, tmp_path / "c.mp4", kept, colorspace=6))


@pytest.mark.parametrize(
    ("late", "verdict"), [(Fraction(1, 2000), "kept"), (Fraction(1, 100), "changed"), (Fraction(1, 4), "lost")]
)
def test_sound_that_drifts(tmp_path: Path, late: Fraction, verdict: str) -> None:
    source, target = make(tmp_path, "two-audio-mp4"), tmp_path / "b.mp4"
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", container_options={"movie_timescale": "240000"}) as new,
    ):
        new.metadata.update(old.metadata)
        copies = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        for stream in old.streams:
            copies[stream.index].metadata["language"] = stream.metadata["language"]
        for packet in old.demux():
            if not packet.size:
                continue
            if packet.stream.index == 2:
                packet.pts += round(late / packet.time_base)
                packet.dts = packet.pts
            packet.stream = copies[packet.stream.index]
            new.mux(packet)
    rows = {row.what: row.verdict for row in audit(source, target)}
    assert (rows["audio 2"], rows["times of audio 2"], rows["times of audio 1"]) == ("kept", verdict, "kept")


def test_sound_that_was_coded_again_or_cut_short(tmp_path: Path) -> None:
    source = make(tmp_path, "plain")
    other = write(tmp_path / "b.mkv", Recipe(".mkv", audio=(("eng", 0),), audio_codec="libopus"))
    assert {row.what: row.verdict for row in audit(source, other)}["audio 1"] == "changed"
    short = tmp_path / "c.mp4"
    with av.open(str(source)) as old, av.open(str(short), "w") as new:
        copies = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        for number, packet in enumerate(old.demux()):
            if packet.size and (packet.stream.type == "video" or number < 2):
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    assert "audio 1" in lost(source, short)


def test_the_worst_of_findings() -> None:
    def finding(verdict: Any) -> Finding:
        return Finding("size", "", "", verdict)

    assert worst([]) == "kept"
    assert worst([finding("kept"), finding("changed")]) == "changed"
    assert worst([finding("lost"), finding("changed")]) == "lost"


def test_what_is_no_clip_cannot_be_audited(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_bytes(b"words" * 99)
    with pytest.raises(InputError, match=r"words\.mp4"):
        audit(make(tmp_path, "one"), tmp_path / "words.mp4")
    with pytest.raises(InputError, match=r"none\.mp4"):
        audit(tmp_path / "none.mp4", make(tmp_path, "one"))


def test_frames_that_are_never_shown_are_not_missed(tmp_path: Path) -> None:
    """A broadcast that begins in the middle: nothing before its second key frame can be decoded."""
    source = write(tmp_path / "a.ts", Recipe(frames=20, options=(("g", "10"),)))
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = source.read_bytes()
    source.write_bytes(data[: 188 * 3] + data[places[4] :])  # the tables that say what is in it come first
    frames, _ = passed(source, tmp_path / "b.mkv")
    assert len(frames) == 10
    rows = {row.what: (row.before, row.verdict) for row in audit(source, tmp_path / "b.mkv")}
    assert (rows["frames"], rows["times of the frames"][1]) == (("10", "kept"), "kept")


def test_a_clip_too_small_to_be_deinterlaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", Recipe(".mkv", frames=2, size=(2, 2), codec="ffv1"))
    assert worst(audit(path, path)) == "kept"


def test_interlaced_and_damaged_clips_can_be_audited(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Recipe(frames=4, interlaced=True))
    assert worst(audit(path, path)) == "kept"
    with pytest.raises(InputError, match="interlaced"):
        VideoReader(path)
