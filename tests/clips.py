"""Clips of every kind that people have, made on the spot by PyAV alone: what msr must carry through unharmed."""

import dataclasses
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange
from made import picture

# SVT-AV1 tells its settings on stderr otherwise.
os.environ.setdefault("SVT_LOG", "1")

TITLE = "A day at the sea"
#: BT.2020 primaries, D65, 0.0001 to 1000 cd/m2; brightest pixel 1000, brightest frame 400, as x265 takes them.
HDR = "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1):max-cll=1000,400"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a clip is made of. ``times`` are ticks of ``base`` (None: one frame a tick of 1/25 s)."""

    suffix: str = ".mp4"
    frames: int = 8
    size: tuple[int, int] = (64, 48)
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    times: tuple[int, ...] | None = None
    base: Fraction = Fraction(1, 25)
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    full_range: bool = False
    chroma_location: str = ""
    aspect: Fraction | None = None
    rotation: int = 0
    mirrored: bool = False
    hdr: bool = False
    interlaced: bool = False
    #: Language and start in seconds of each audio track.
    audio: tuple[tuple[str, float], ...] = ()
    audio_codec: str = "aac"
    subtitles: bool = False
    chapters: bool = False
    attachment: bool = False
    cover: bool = False
    #: The frame from which another scene is shown.
    cut: int | None = None
    options: tuple[tuple[str, str], ...] = ()


#: The clips by name; every one must come out as it went in.
MATRIX = {
    "plain": Recipe(audio=(("eng", 0),)),
    "ntsc": Recipe(base=Fraction(1001, 30000), frames=12),
    "vfr": Recipe(times=(0, 300, 400, 1000, 1100, 4000, 4001, 4100), base=Fraction(1, 3000)),
    "vfr-mkv": Recipe(".mkv", times=(0, 33, 67, 500, 533, 1999), frames=6, base=Fraction(1, 1000)),
    "late-video": Recipe(times=(700, 740, 780), frames=3, base=Fraction(1, 1000), audio=(("eng", 0),)),
    "pq": Recipe(codec="libx265", pix_fmt="yuv420p10le", matrix=9, primaries=9, transfer=16, hdr=True),
    "hlg": Recipe(".mkv", codec="libx265", pix_fmt="yuv420p10le", matrix=9, primaries=9, transfer=18),
    "601": Recipe(size=(96, 64), matrix=6, primaries=6, transfer=6),
    "709": Recipe(matrix=1, primaries=1, transfer=1),
    "full": Recipe(matrix=1, full_range=True),
    "centred": Recipe(chroma_location="center"),
    "top-left": Recipe(".mkv", pix_fmt="yuv420p10le", codec="libx265", chroma_location="topleft"),
    "422": Recipe(".mkv", pix_fmt="yuv422p"),
    "444": Recipe(".mkv", pix_fmt="yuv444p10le", codec="libx265"),
    "gray": Recipe(".mkv", codec="ffv1", pix_fmt="gray"),
    "rgb": Recipe(".mkv", codec="ffv1", pix_fmt="bgr0"),
    "prores": Recipe(".mov", codec="prores_ks", pix_fmt="yuv422p10le", audio=(("eng", 0),), audio_codec="pcm_s16le"),
    "vp9": Recipe(".webm", codec="libvpx-vp9", audio=(("eng", 0),), audio_codec="libopus"),
    "av1": Recipe(".webm", codec="libsvtav1", pix_fmt="yuv420p10le"),
    "anamorphic": Recipe(aspect=Fraction(32, 27)),
    "rotated": Recipe(rotation=90, audio=(("eng", 0),)),
    "upside-down": Recipe(".mov", rotation=180),
    "mirrored": Recipe(mirrored=True),
    "rotated-mkv": Recipe(".mkv", rotation=-90),
    "late-audio": Recipe(frames=25, audio=(("eng", 0.5),)),
    "two-audio": Recipe(".mkv", audio=(("eng", 0), ("fra", 0.25))),
    "two-audio-mp4": Recipe(audio=(("eng", 0), ("fra", 0))),
    "subtitles": Recipe(frames=25, subtitles=True),
    "subtitles-mkv": Recipe(".mkv", frames=25, subtitles=True, attachment=True),
    "chapters": Recipe(frames=25, chapters=True),
    "chapters-mkv": Recipe(".mkv", frames=25, chapters=True),
    "cover": Recipe(cover=True, audio=(("eng", 0),)),
    "odd": Recipe(size=(33, 31), pix_fmt="yuv444p"),
    "odd-vp9": Recipe(".webm", codec="libvpx-vp9", size=(33, 31)),
    "one": Recipe(frames=1),
    "cut": Recipe(frames=12, cut=6),
}  # fmt: skip


def make(folder: Path, name: str) -> Path:
    """Make the clip of this name in a folder."""
    recipe = MATRIX[name]
    return write(folder / f"{name}{recipe.suffix}", recipe)


def write(path: Path, recipe: Recipe) -> Path:
    """Make a clip by a recipe."""
    mp4 = recipe.suffix in (".mp4", ".mov")
    # Fine enough for a track that begins late.
    options = {"movie_timescale": "240000"} if mp4 else {}
    with av.open(str(path), "w", container_options=options) as out:
        video = _video(out, recipe)
        tracks = [_track(out, recipe.audio_codec, language) for language, _ in recipe.audio]
        text = out.add_mux_stream("mov_text" if mp4 else "subrip") if recipe.subtitles else None
        if text is not None:
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = "deu"
        if recipe.attachment:
            out.add_attachment("letters.ttf", "application/x-truetype-font", bytes(range(200)))
        cover = out.add_mux_stream("png", width=16, height=16) if recipe.cover else None
        if cover is not None:
            cover.disposition = Disposition.attached_pic
        out.metadata.update({"title": TITLE, "creation_time": "2021-03-04T05:06:07.000000Z"})
        if recipe.chapters:
            out.set_chapters([_chapter(1, 0, 480, "Arrival"), _chapter(2, 480, 1000, "Évening")])
        for index in range(recipe.frames):
            out.mux(video.encode(frame(recipe, index)))
        out.mux(video.encode())
        for stream, (_, start) in zip(tracks, recipe.audio, strict=True):
            _sound(out, stream, start, recipe)
        if text is not None:
            for at, words in ((100, "Hello"), (600, "so long")):
                data = words.encode()
                packet = av.Packet(len(data).to_bytes(2, "big") + data if mp4 else data)
                packet.pts = packet.dts = at
                packet.duration, packet.time_base, packet.stream = 200, Fraction(1, 1000), text
                out.mux(packet)
        if cover is not None:
            packet = av.Packet(_png())
            packet.pts = packet.dts = 0
            packet.time_base, packet.stream = Fraction(1, 1000), cover
            out.mux(packet)
    return path


def frame(recipe: Recipe, index: int) -> av.VideoFrame:
    """A frame of smooth colours that move to the right, in code values of the whole allowed range."""
    width, height = recipe.size
    made = av.VideoFrame(width, height, recipe.pix_fmt)
    scene = int(recipe.cut is not None and index >= recipe.cut)
    depth = max(component.bits for component in made.format.components)
    for number, plane in enumerate(made.planes):
        step = plane.line_size // (2 if depth > 8 else 1)
        rows = np.frombuffer(plane, np.uint16 if depth > 8 else np.uint8).reshape(plane.height, step)
        texture = np.roll(picture(plane.height, step, 3 * scene + number)[..., 0], index, 1)
        rows[:] = texture.astype(rows.dtype) << (depth - 8)
    times = recipe.times or range(recipe.frames)
    made.pts, made.time_base = times[index], recipe.base
    made.duration = times[index + 1] - times[index] if index + 1 < len(times) else 1
    made.colorspace, made.color_primaries, made.color_trc = recipe.matrix, recipe.primaries, recipe.transfer
    made.color_range = ColorRange.JPEG if recipe.full_range else ColorRange.MPEG
    return made


def _video(out: av.container.OutputContainer, recipe: Recipe) -> av.VideoStream:
    options = {"chroma_sample_location": recipe.chroma_location} if recipe.chroma_location else {}
    if recipe.codec == "libx265":
        options["x265-params"] = "log-level=none" + (":" + HDR if recipe.hdr else "")
    if recipe.interlaced:
        options["x264-params"] = "tff=1"
    rate = 1 / recipe.base if recipe.times is None else Fraction(25)
    stream = out.add_stream(recipe.codec, rate=rate, options=options | dict(recipe.options))
    stream.width, stream.height = recipe.size
    stream.pix_fmt = recipe.pix_fmt
    stream.time_base = stream.codec_context.time_base = recipe.base
    context = stream.codec_context
    context.colorspace, context.color_primaries, context.color_trc = recipe.matrix, recipe.primaries, recipe.transfer
    if recipe.pix_fmt != "bgr0":
        context.color_range = int(ColorRange.JPEG if recipe.full_range else ColorRange.MPEG)
    if recipe.aspect is not None:
        context.sample_aspect_ratio = recipe.aspect
    if recipe.rotation or recipe.mirrored:
        stream.set_display_rotation(recipe.rotation, hflip=recipe.mirrored)
    return stream


def _track(out: av.container.OutputContainer, codec: str, language: str) -> av.AudioStream:
    stream = out.add_stream(codec, rate=48000)
    stream.metadata["language"] = language
    return stream


def _sound(out: av.container.OutputContainer, stream: av.AudioStream, start: float, recipe: Recipe) -> None:
    layout = "s16" if recipe.audio_codec.startswith("pcm") else "flt" if recipe.audio_codec == "libopus" else "fltp"
    for block in range(12):
        at = round(start * 48000) + block * 1024
        wave = np.sin(np.arange(at, at + 1024) * 0.06).astype(np.float32)
        both = np.stack([wave, wave])
        if layout != "fltp":
            both = both.T.reshape(1, -1)
        both = (both * 20000).astype(np.int16) if layout == "s16" else both
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(both), format=layout, layout="stereo")
        samples.sample_rate, samples.pts, samples.time_base = 48000, at, Fraction(1, 48000)
        out.mux(stream.encode(samples))
    out.mux(stream.encode())


def _chapter(number: int, start: int, end: int, title: str) -> dict:
    return {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def _png() -> bytes:
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 16, 16, "rgb24", Fraction(1)
    image = av.VideoFrame.from_ndarray(picture(16, 16), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(image), *context.encode()])


def truncate(path: Path, share: float = 0.7) -> Path:
    """Cut off the end of a clip that keeps its index at the front."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def corrupt(path: Path) -> Path:
    """Overwrite the first half of the largest video packet but the first; its container stays whole.

    Its header too: of arbitrary bytes behind it a decoder makes some picture or other, and says nothing.
    """
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    largest = max(packets[1:], key=len)
    data = path.read_bytes()
    if largest not in data:  # Matroska leaves out the header of a ProRes frame
        largest = largest[8:]
    assert data.count(largest) == 1
    half = len(largest) // 2
    path.write_bytes(data.replace(largest, np.random.default_rng(0).bytes(half) + largest[half:]))
    return path
