"""Every kind of clip comes out as it went in: code values, times, colours, and all other streams."""

import itertools
import json
import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import MATRIX, TITLE, Recipe, make, write
from passing import passed, read

from msr.errors import InputError
from msr.io import ClipFormat, EncoderSettings, VideoReader, audit, check_container, output_format, worst

#: Encoders for H.264, H.265 and VP9 can do without loss, from and to planes of Y, U and V.
LOSSLESS = [name for name, recipe in MATRIX.items() if recipe.pix_fmt not in ("gray", "bgr0") and name != "av1"]


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_clip_passes_unharmed(tmp_path: Path, name: str) -> None:
    source = make(tmp_path, name)
    target = tmp_path / f"out{source.suffix}"
    before, notes = passed(source, target)
    assert not notes
    after = read(target)
    same(before, after, exact=True)
    assert {(row.what, row.verdict) for row in audit(source, target) if row.verdict != "kept"} == set()
    assert facts(target) == facts(source)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("plain", ".mkv"), ("vfr", ".mkv"), ("vfr-mkv", ".mp4"), ("vfr", ".webm"), ("late-video", ".mkv"),
        ("pq", ".mkv"), ("pq", ".mov"), ("hlg", ".mp4"), ("full", ".webm"), ("601", ".webm"), ("centred", ".mkv"),
        ("top-left", ".mp4"), ("prores", ".mkv"), ("vp9", ".mp4"), ("vp9", ".mkv"), ("rotated", ".mkv"),
        ("rotated-mkv", ".mov"), ("mirrored", ".webm"), ("late-audio", ".mkv"), ("two-audio", ".mov"),
        ("chapters", ".mkv"), ("chapters-mkv", ".mp4"), ("chapters", ".webm"), ("cover", ".mkv"), ("one", ".mkv"),
        ("odd", ".webm"), ("ntsc", ".mov"), ("anamorphic", ".mkv"), ("subtitles", ".mov"), ("422", ".webm"),
    ],
)  # fmt: skip
def test_a_clip_passes_into_another_container(tmp_path: Path, name: str, suffix: str) -> None:
    source, target = make(tmp_path, name), tmp_path / f"out{suffix}"
    before, notes = passed(source, target)
    assert not notes
    same(before, read(target), exact=suffix in (".mp4", ".mov"))
    assert {(row.what, row.verdict) for row in audit(source, target) if row.verdict != "kept"} == set()


def same(before: list[Any], after: list[Any], exact: bool) -> None:
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a.planes, b.planes, strict=True))
        shown = [frame.pts * frame.format.time_base for frame in (a, b)]
        if exact:
            assert shown[0] == shown[1]
        # Matroska counts milliseconds from 0: where sound comes before the first frame, all moves together.
        begun = [frames[0].pts * frames[0].format.time_base for frames in (before, after)]
        assert abs((shown[0] - begun[0]) - (shown[1] - begun[1])) <= Fraction(1, 1000)


def facts(path: Path) -> dict[str, Any]:
    """What PyAV sees beside the video, without msr's own audit."""
    with av.open(str(path)) as container:
        streams = list(container.streams)
        found: dict[str, Any] = {
            "title": container.metadata.get("title"),
            "created": container.metadata.get("creation_time"),
            "chapters": [(c["start"] * c["time_base"], c["metadata"]) for c in container.chapters()],
            "languages": [stream.metadata.get("language") for stream in streams],
            "types": [stream.type for stream in streams],
            "attachments": [stream.data for stream in streams if stream.type == "attachment"],
            "rotation": next(container.decode(video=0)).rotation,
        }
    with av.open(str(path)) as container:
        packets: dict[int, list[Any]] = {}
        for packet in container.demux():
            if packet.size and packet.stream.type in ("audio", "subtitle"):
                packets.setdefault(packet.stream.index, []).append((packet.pts * packet.time_base, bytes(packet)))
    return found | {"packets": packets}


def test_the_facts_are_there_to_be_kept(tmp_path: Path) -> None:
    """The clips have what their names say: a test that compares nothing with nothing would pass."""
    assert len(facts(make(tmp_path, "two-audio"))["packets"]) == 2
    late = facts(make(tmp_path, "late-audio"))["packets"][1]
    assert late[0][0] == Fraction(1, 2) - Fraction(1024, 48000)
    assert [data for _, data in facts(make(tmp_path, "subtitles-mkv"))["packets"][1]] == [b"Hello", b"so long"]
    assert facts(make(tmp_path, "subtitles-mkv"))["attachments"] == [bytes(range(200))]
    chapters = facts(make(tmp_path, "chapters"))
    assert chapters["chapters"] == [(0, {"title": "Arrival"}), (Fraction(48, 100), {"title": "Évening"})]
    assert (chapters["title"], chapters["created"]) == (TITLE, "2021-03-04T05:06:07.000000Z")
    assert facts(make(tmp_path, "rotated"))["rotation"] == 90
    with VideoReader(make(tmp_path, "pq")) as clip:
        assert (clip.format.matrix, clip.format.primaries, clip.format.transfer) == (9, 9, 16)
        assert clip.format.pixels.name == "yuv420p10le"
        assert clip.format.light_level is not None
        assert (clip.format.light_level.max_content, clip.format.light_level.max_average) == (1000, 400)
        assert clip.format.mastering is not None
        assert clip.format.mastering.luminance == (Fraction(1, 10000), 1000)
        assert clip.format.mastering.primaries is not None
        assert clip.format.mastering.primaries[0] == (Fraction(35400, 50000), Fraction(14600, 50000))
    with VideoReader(make(tmp_path, "centred")) as clip:
        assert clip.format.chroma_location == "center"
    with VideoReader(make(tmp_path, "anamorphic")) as clip:
        assert clip.format.aspect == Fraction(32, 27)
    with VideoReader(make(tmp_path, "full")) as clip:
        assert clip.format.full_range
    with VideoReader(make(tmp_path, "mirrored")) as clip:
        assert (clip.format.turns, clip.format.mirrored) == (0, True)
    with VideoReader(make(tmp_path, "vfr")) as clip:
        shown = [frame.pts * clip.format.time_base for frame in clip]
    assert shown == [Fraction(time, 3000) for time in (0, 300, 400, 1000, 1100, 4000, 4001, 4100)]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_reordered_frames_keep_their_times_over_the_seams(tmp_path: Path, codec: str) -> None:
    """Frames that are coded out of order, at uneven times, in segments shorter than the encoder's delay."""
    times = tuple(int(time) for time in np.cumsum(np.random.default_rng(1).integers(1, 4000, 40)))
    source = write(tmp_path / "a.mp4", Recipe(frames=40, times=times, base=Fraction(1, 3000)))
    for segment in (1, 2, 7, 40):
        before, _ = passed(source, tmp_path / "b.mp4", segment=segment, settings=EncoderSettings(codec, crf=30))
        assert [f.pts for f in read(tmp_path / "b.mp4")] == [f.pts for f in before]
        with av.open(str(tmp_path / "b.mp4")) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        decoded = [packet.dts for packet in packets]
        assert all(a < b for a, b in itertools.pairwise(decoded))
        assert all(packet.pts >= packet.dts for packet in packets)
        assert [packet.is_keyframe for packet in packets][::segment] == [True] * len(packets[::segment])


def test_the_last_frame_is_shown_as_long_as_it_was(tmp_path: Path) -> None:
    source = make(tmp_path, "ntsc")
    for suffix in (".mp4", ".mov"):
        passed(source, tmp_path / f"out{suffix}", segment=5)
        with av.open(str(source)) as a, av.open(str(tmp_path / f"out{suffix}")) as b:
            lengths = [c.streams.video[0].duration * c.streams.video[0].time_base for c in (a, b)]
        assert lengths[0] == lengths[1] == 12 * Fraction(1001, 30000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_stretch_begins_at_zero_with_its_own_sound_and_chapters(tmp_path: Path, suffix: str) -> None:
    recipe = Recipe(suffix, frames=25, audio=(("eng", 0),), chapters=True, subtitles=True)
    source = write(tmp_path / f"a{suffix}", recipe)
    target = tmp_path / f"b{suffix}"
    frames, _ = passed(source, target, start=0.12, duration=0.6)
    assert [frame.pts * frame.format.time_base for frame in frames][:: len(frames) - 1] == [
        Fraction(12, 100),
        Fraction(68, 100),
    ]
    after = read(target)
    sound = [facts(path)["packets"] for path in (source, target)]
    number = next(i for i, track in sound[0].items() if len(track) == 13)
    kept = {data: time for time, data in sound[1][number]}
    whole = {data: time for time, data in sound[0][number]}
    assert len(kept) == len(sound[1][number]) < len(whole)
    # In time with the picture, to the millisecond of Matroska.
    begin = after[0].pts * after[0].format.time_base
    for data, time in kept.items():
        assert abs((time - begin) - (whole[data] - Fraction(12, 100))) <= Fraction(2, 1000)
    with av.open(str(target)) as container:
        chapters = [(float(c["start"] * c["time_base"]), c["metadata"]["title"]) for c in container.chapters()]
    assert chapters == [(0, "Arrival"), (pytest.approx(0.36), "Évening")]
    texts = [bytes(p)[2 * (suffix == ".mp4") :] for _, p in sound[1][next(i for i in sound[1] if i != number)]]
    assert [text for text in texts if text] == [b"Hello", b"so long"]


def test_what_does_not_fit_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.webm cannot hold the aac audio \(stream 1\) of .*; choose \.mkv"):
        check_container(make(tmp_path, "plain"), ".webm")
    with pytest.raises(InputError, match=r"\.mp4 cannot hold the letters\.ttf attachment \(stream 2\)"):
        check_container(make(tmp_path, "subtitles-mkv"), ".mp4")
    with pytest.raises(InputError, match=r"\.webm cannot hold the srt subtitle \(stream 1\) and the letters"):
        check_container(make(tmp_path, "subtitles-mkv"), ".webm")
    with pytest.raises(InputError, match="no container"):
        check_container(None, ".avi")
    assert check_container(make(tmp_path, "cover"), ".mov") == [
        ".mov cannot hold the cover picture (stream 2); it is left out"
    ]
    notes = check_container(make(tmp_path, "two-audio"), ".y4m")
    assert notes[1] == "pictures and y4m hold no other streams: aac audio, aac audio left out"


def test_a_stream_that_no_container_takes_is_left_out(tmp_path: Path) -> None:
    source = make(tmp_path, "two-audio-mp4")
    data = source.read_bytes()
    for box, other in ((b"mp4a", b"apac"), (b"esds", b"dapa")):  # Apple's spatial sound, which FFmpeg does not know
        at = data.rindex(box)
        data = data[:at] + other + data[at + 4 :]
    source.write_bytes(data)
    for suffix in (".mp4", ".mov", ".mkv"):
        said = ["no container can hold the unknown audio (stream 2); it is left out"]
        assert passed(source, tmp_path / f"b{suffix}")[1] == said
    with pytest.raises(InputError, match=r"the aac audio \(stream 1\) of .*; choose \.mkv"):
        check_container(source, ".webm")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_data_that_a_container_takes_and_cannot_read_is_left_out(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "a.ts"
    with av.open(str(make(tmp_path, "plain"))) as old, av.open(str(source), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        data = new.add_mux_stream("timed_id3")
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                new.mux(packet)
        tag = av.Packet(b"ID3\4\0\0\0\0\0\x17TIT2\0\0\0\x0d\0\0\3hello world\0")
        tag.pts = tag.dts = 0
        tag.time_base, tag.stream = Fraction(1, 1000), data
        new.mux(tag)
    said = f"{suffix} cannot hold the data of stream 1 (timed_id3 data); it is left out"
    assert passed(source, tmp_path / f"b{suffix}")[1] == [said]


def test_tags_that_only_their_writer_knows_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with (
        av.open(str(make(tmp_path, "plain"))) as old,
        av.open(str(source), "w", container_options={"movflags": "use_metadata_tags"}) as new,
    ):
        copies = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        new.metadata.update({"com.example.camera": "Model 5", "comment": "near the pier"})
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    for suffix in (".mp4", ".mov", ".mkv"):
        _, notes = passed(source, tmp_path / f"b{suffix}")
        assert not notes
        with av.open(str(tmp_path / f"b{suffix}")) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
        assert (tags["com.example.camera"], tags["comment"]) == ("Model 5", "near the pier"), json.dumps(tags)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("vp9", ".webm"), ("av1", ".webm"), ("vp9", ".mkv"), ("ffv1", ".mkv"), ("av1", ".mp4")]
)
def test_the_shape_of_pixels_is_said_where_the_codec_has_no_word_for_it(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    recipe = Recipe(size=(640, 48), frames=4, aspect=Fraction(32, 27), chapters=True)
    source, target = write(tmp_path / "a.mp4", recipe), tmp_path / f"b{suffix}"
    _, notes = passed(source, target, settings=EncoderSettings(codec))
    assert not notes
    with VideoReader(target) as clip:
        assert clip.format.aspect is not None
        # Matroska says it as a size in whole pixels.
        assert abs(clip.format.aspect - Fraction(32, 27)) < Fraction(1, 640)
        assert len(list(clip)) == 4
    assert worst(audit(source, target)) == "kept"


@pytest.mark.parametrize(
    ("codec", "suffix"), [("ffv1", ".mkv"), ("prores", ".mov"), ("av1", ".webm"), ("hevc", ".mp4")]
)
def test_static_hdr_metadata_are_written_with_every_codec(tmp_path: Path, codec: str, suffix: str) -> None:
    pix_fmt = "yuv422p10le" if codec == "prores" else "yuv420p10le"
    recipe = Recipe(codec="libx265", pix_fmt=pix_fmt, matrix=9, primaries=9, transfer=16, hdr=True)
    source, target = write(tmp_path / "a.mp4", recipe), tmp_path / f"b{suffix}"
    passed(source, target, settings=EncoderSettings(codec))
    rows = {row.what: row.verdict for row in audit(source, target)}
    assert (rows["mastering display"], rows["light level"], rows["transfer"]) == ("kept", "kept", "kept")


def test_what_a_container_takes_of_codecs_is_known_before_work() -> None:
    source = ClipFormat(64, 48, Fraction(25), Fraction(1, 25))
    for codec, suffix in (("vp9", ".mov"), ("av1", ".mov"), ("prores", ".mp4"), ("h264", ".webm"), ("ffv1", ".webm")):
        with pytest.raises(InputError, match=rf"\{suffix} cannot hold video of"):
            output_format(source, 64, 48, EncoderSettings(codec, pix_fmt="yuv420p"), suffix)


@pytest.mark.parametrize(("suffix", "other"), [(".mkv", ".mp4"), (".mp4", ".mkv"), (".mkv", ".mov")])
def test_subtitles_change_their_form_and_not_their_words(tmp_path: Path, suffix: str, other: str) -> None:
    source = write(tmp_path / f"a{suffix}", Recipe(suffix, frames=25, subtitles=True))
    target = tmp_path / f"b{other}"
    _, notes = passed(source, target, segment=25)
    assert len(notes) == 1
    assert notes[0].endswith(f"(stream 1) is written as {'subrip' if other == '.mkv' else 'mov_text'}, without styles")
    assert notes == check_container(source, other)
    assert worst(audit(source, target)) == "kept"
    with av.open(str(target)) as container:
        assert container.streams.subtitles[0].metadata["language"] in ("deu", "ger")
        lines = list(container.decode(subtitles=0))
    assert [bytes(line.dialogue) for line in lines] == [b"Hello", b"so long"]


def test_marks_of_subrip_do_not_become_letters(tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    with av.open(str(make(tmp_path, "vfr-mkv"))) as old, av.open(str(source), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        text = new.add_mux_stream("subrip")
        for index, words in enumerate(("<i>Over</i> there", "{\\an8}on top", "1 < 2")):
            packet = av.Packet(words.encode())
            packet.pts = packet.dts = 100 * index
            packet.duration, packet.time_base, packet.stream = 50, Fraction(1, 1000), text
            new.mux(packet)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                new.mux(packet)
    passed(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        lines = {bytes(packet)[2:] for packet in container.demux(subtitles=0)}
    assert lines - {b""} == {b"Over there", b"on top", b"1 < 2"}


def test_languages_and_timecode_of_the_video_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(make(tmp_path, "plain"))) as old, av.open(str(source), "w") as new:
        copies = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        copies[0].metadata.update({"language": "deu", "timecode": "01:00:00:00", "title": "Camera 2"})
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    for suffix in (".mp4", ".mov", ".mkv"):
        _, notes = passed(source, tmp_path / f"b{suffix}")
        assert not notes
        with av.open(str(tmp_path / f"b{suffix}")) as container:
            tags = {key.lower(): value for key, value in container.streams.video[0].metadata.items()}
        assert tags["timecode"] == "01:00:00:00"
        assert tags["language"] in ("deu", "ger")
        assert tags.get("title", tags.get("name")) == "Camera 2"
        assert worst(audit(source, tmp_path / f"b{suffix}")) == "kept"


def test_what_a_muxer_drops_without_a_word_is_said(tmp_path: Path) -> None:
    """QuickTime knows a few dozen languages; FFmpeg leaves out any other."""
    source = tmp_path / "a.mkv"
    with av.open(str(make(tmp_path, "two-audio"))) as old, av.open(str(source), "w") as new:
        copies = {stream.index: new.add_stream_from_template(stream, opaque=True) for stream in old.streams}
        copies[2].metadata["language"] = "zza"
        for packet in old.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
    _, notes = passed(source, tmp_path / "b.mov")
    assert notes == ["the container cannot say that the language of stream 2 is zza"]
    assert {row.what for row in audit(source, tmp_path / "b.mov") if row.verdict == "lost"} == {"language of audio 2"}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_whose_times_go_back_is_put_in_order(tmp_path: Path, suffix: str) -> None:
    """Blocks 6 and 9 of the sound claim the time of one that is long past, and of the one before."""
    source = write(tmp_path / "a.mkv", Recipe(".mkv", audio=(("eng", 0),)))
    with av.open(str(source)) as container:
        times = [packet.dts for packet in container.demux(audio=0) if packet.size]
    data, blocks = source.read_bytes(), []
    for found in re.finditer(rb"\xa3[\x40-\xff][\x00-\xff]?\x82(..)\x80", data, re.DOTALL):
        blocks.append(found.start(1))
    assert len(blocks) == len(times)
    for index, time in ((6, times[3]), (9, times[8])):
        base = int.from_bytes(data[blocks[0] : blocks[0] + 2], "big", signed=True) - times[0]
        data = data[: blocks[index]] + (base + time).to_bytes(2, "big") + data[blocks[index] + 2 :]
    source.write_bytes(data)
    _, notes = passed(source, tmp_path / f"b{suffix}")
    moved = 1 if suffix == ".mkv" else 2  # Matroska takes the same time twice
    assert [f"times of the aac audio (stream 1) repeat or go back ({moved} of them)" in note for note in notes] == [
        True
    ]
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        after = [packet.dts * packet.time_base for packet in container.demux(audio=0) if packet.size]
    assert after == sorted(after)
    starts = after[0] - Fraction(times[0], 1000)
    for index, time in enumerate(times):
        assert abs(after[index] - starts - Fraction(time, 1000)) <= (
            Fraction(1, 40) if index == 9 else Fraction(3, 1000)
        )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_is_cut_off_stays_cut_off(tmp_path: Path, suffix: str) -> None:
    """An edit list begins 0.12 s into both tracks, as phones trim clips."""
    source = write(tmp_path / "a.mp4", Recipe(frames=25, audio=(("eng", 0),)))
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    data, at = bytearray(source.read_bytes()), 0
    for scale in (12800, 48000):
        at = data.index(b"elst", at) + 12
        length, begin = struct.unpack_from(">Ii", data, at)
        struct.pack_into(">Ii", data, at, length - 240000 * 12 // 100, begin + scale * 12 // 100)
    source.write_bytes(data)
    with av.open(str(source)) as container:
        hidden = sum(packet.is_discard for packet in container.demux(audio=0))
    frames, _ = passed(source, tmp_path / f"b{suffix}")
    assert (hidden, len(frames)) == (6, 22)
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        # Two packets lead the decoder in.
        assert [bytes(packet) for packet in container.demux(audio=0) if packet.size] == packets[hidden - 2 :]
    assert worst(audit(source, tmp_path / f"b{suffix}")) != "lost"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_clip_that_begins_after_an_hour(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "a.mkv"
    with av.open(str(make(tmp_path, "chapters-mkv"))) as old, av.open(str(source), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0], opaque=True)
        new.set_chapters([{**chapter, "start": chapter["start"] + 3600 * 10**9, "end": chapter["end"] + 3600 * 10**9}
                          for chapter in old.chapters()])  # fmt: skip
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts += 3_600_000
                packet.dts = None if packet.dts is None else packet.dts + 3_600_000
                packet.stream = copy
                new.mux(packet)
    frames, _ = passed(source, tmp_path / f"b{suffix}")
    assert frames[0].pts * frames[0].format.time_base == 3600
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        begin = 3600 if suffix == ".mkv" else 0
        assert next(container.decode(video=0)).time == begin
        assert container.chapters()[1]["start"] * container.chapters()[1]["time_base"] == begin + Fraction(48, 100)
    kept = {row.what for row in audit(source, tmp_path / f"b{suffix}") if row.verdict == "kept"}
    assert {"frames", "times of the frames"} <= kept


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_lines_that_overlap_begin_when_they_did(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / "a.mkv"
    lines = [(100, 500, "long"), (300, 100, "short"), (700, 100, "late")]
    with av.open(str(make(tmp_path, "chapters-mkv"))) as old, av.open(str(source), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        text = new.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                new.mux(packet)
        for begin, length, words in lines:
            packet = av.Packet(words.encode())
            packet.pts = packet.dts = begin
            packet.duration, packet.time_base, packet.stream = length, Fraction(1, 1000), text
            new.mux(packet)
    _, notes = passed(source, tmp_path / f"b{suffix}")
    assert (
        f"lines of the srt subtitle (stream 1) end where the next begins (1 of them): {suffix} shows no two at once"
        in notes
    )
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        shown = [
            (
                packet.pts * packet.time_base * 1000,
                packet.duration * packet.time_base * 1000,
                bytes(packet)[2:].decode(),
            )
            for packet in container.demux(subtitles=0)
            if packet.size > 2
        ]
    assert shown == [(100, 200, "long"), (300, 100, "short"), (700, 100, "late")]
