"""`msr video` from its words: sizes, parts, encoders, previews, lines of JSON, y4m from and to pipes."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import Recipe, write
from made import clip, weights

from msr.cli import main
from msr.io import read_image


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 10 frames with sound, and a tiny model of scale 2 that takes each frame for itself."""
    folder = tmp_path_factory.mktemp("stock")
    weights(folder, "image", scale=2)
    clip(folder / "a.mp4", 10, audio="aac")
    return folder


def video(stock: Path, target: Path | str, *words: str, source: str = "a.mp4") -> int:
    source = source if source == "-" else str(stock / source)
    return main(["video", source, "-o", str(target), "--model", str(stock / "tiny-image.safetensors"), *words])


def stream(path: Path) -> tuple[tuple[int, int], int, str, str]:
    """Size, frames, codec and pixel format of a clip."""
    with av.open(str(path)) as container:
        found = container.streams.video[0]
        return (
            (found.width, found.height),
            sum(1 for _ in container.decode(video=0)),
            found.codec_context.codec.canonical_name,
            str(found.pix_fmt),
        )


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([], (128, 96)),
        (["--scale", "1.5"], (96, 72)),
        (["--size", "150x100"], (150, 100)),
        (["--fit", "160x90"], (120, 90)),
    ],
)
def test_any_size(stock: Path, tmp_path: Path, words: list[str], size: tuple[int, int]) -> None:
    assert video(stock, tmp_path / "b.mp4", "-q", *words) == 0
    assert stream(tmp_path / "b.mp4")[:2] == (size, 10)


def test_the_encoder_is_chosen(stock: Path, tmp_path: Path) -> None:
    words = ["--codec", "hevc", "--crf", "30", "--pix-fmt", "yuv444p10le"]
    assert video(stock, tmp_path / "b.mkv", "-q", *words) == 0
    assert stream(tmp_path / "b.mkv") == ((128, 96), 10, "hevc", "yuv444p10le")
    assert video(stock, tmp_path / "small.mkv", "-q", "--crf", "51") == 0
    assert video(stock, tmp_path / "large.mkv", "-q", "--crf", "0") == 0
    assert (tmp_path / "small.mkv").stat().st_size < (tmp_path / "large.mkv").stat().st_size / 2


def test_a_part_of_the_clip(stock: Path, tmp_path: Path) -> None:
    # 30000/1001 frames a second: frames 3 to 6 begin within the part.
    assert video(stock, tmp_path / "b", "-q", "--start", "0.1", "--duration", "0.13") == 0
    assert len(list((tmp_path / "b").iterdir())) == 4


@pytest.mark.parametrize("name", ["12:30:05.mp4", "scene:1.mkv", "file:x.mp4"])
def test_a_name_is_no_protocol(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(stock / "a.mp4", tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path / "in")
    assert main(["video", name, "-o", f"large-{name}", "--model", str(stock / "tiny-image.safetensors"), "-q"]) == 0
    assert main(["verify", name, f"large-{name}"]) == 0
    assert {path.name for path in Path().iterdir()} == {name, f"large-{name}"}


def test_a_preview_comes_first(stock: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert video(stock, tmp_path / "b.mp4", "--preview", "0.1") == 0
    assert "preview of 3 frames in " in capfd.readouterr().err
    assert stream(tmp_path / "b.preview.mp4")[:2] == ((128, 96), 3)
    assert read_image(tmp_path / "b.preview.png").pixels.shape[0] == 96
    assert stream(tmp_path / "b.mp4")[:2] == ((128, 96), 10)
    assert {path.name for path in tmp_path.iterdir()} == {"b.mp4", "b.preview.mp4", "b.preview.png"}


def test_lines_of_json(stock: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert video(stock, tmp_path / "b.mp4", "--json") == 0
    out, err = capfd.readouterr()
    assert err == ""
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0] == {"event": "begin", "name": "a.mp4", "frames": 10, "done": 0}
    last = [event for event in events if event["event"] == "frame"][-1]
    assert (last["done"], last["frames"]) == (10, 10)
    assert events[-1] == {
        "event": "done",
        "path": str(tmp_path / "b.mp4"),
        "width": 128,
        "height": 96,
        "frames": 10,
    }


def test_pipes_on_both_sides(stock: Path, tmp_path: Path) -> None:
    picture = bytes(range(256)) * 12
    source = b"YUV4MPEG2 W64 H48 F30000:1001 Ip A1:1 C420mpeg2\n" + (b"FRAME\n" + picture + bytes([128]) * 1536) * 3
    command = [sys.executable, "-m", "msr", "video", "-", "-o", "-", "-q", "--model"]
    done = subprocess.run([*command, str(stock / "tiny-image.safetensors")], input=source, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    header, rest = done.stdout.split(b"\n", 1)
    assert header.split()[:4] == [b"YUV4MPEG2", b"W128", b"H96", b"F30000:1001"]
    assert len(rest) == 3 * (6 + 128 * 96 * 3 // 2)
    (tmp_path / "b.y4m").write_bytes(done.stdout)
    assert stream(tmp_path / "b.y4m")[:2] == ((128, 96), 3)


@pytest.mark.parametrize("target", ["{}/b.mkv", "{}/b", "-"])
@pytest.mark.parametrize(
    ("words", "says"), [((), "has no frames"), (("--start", "0.08"), "has no frame from 0.08 s on")]
)
def test_y4m_without_frames(stock: Path, tmp_path: Path, target: str, words: tuple[str, ...], says: str) -> None:
    frames = b"FRAME\n" + bytes(16 * 16 * 3 // 2)
    source = b"YUV4MPEG2 W16 H16 F25:1 C420\n" + (frames * 2 if words else b"")
    command = [sys.executable, "-m", "msr", "video", "-", "-o", target.format(tmp_path), "-q", *words, "--model"]
    done = subprocess.run([*command, str(stock / "tiny-image.safetensors")], input=source, capture_output=True)
    assert done.returncode == (2 if words else 1)
    assert done.stderr.decode().endswith(f"msr: error: the standard input {says}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("video {stock}/a.mp4 -o - {model} >/dev/full", 1, "cannot write the standard output: No space left on device"),
        ("info >/dev/full", 1, "cannot write the output: No space left on device"),
        ("video {stock}/a.mp4 -o - {model} >&-", 2, "the standard output is closed"),
        ("video - -o {stock}/b.mkv {model} <&-", 2, "the standard input is closed"),
        ("models >&-", 0, ""),
    ],
)
def test_pipes_that_are_full_or_closed(stock: Path, words: str, code: int, says: str) -> None:
    line = f"{sys.executable} -m msr " + words.format(stock=stock, model=f"-q --model {stock}/tiny-image.safetensors")
    done = subprocess.run(["sh", "-c", line], capture_output=True)
    assert (done.returncode, done.stderr.decode()) == (code, f"msr: error: {says}\n" if says else "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_inputs_that_are_no_clips(stock: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("hello\n" * 100)
    os.mkfifo(tmp_path / "pipe.y4m")
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        sound, cover = out.add_stream("aac", rate=48000), out.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        out.mux([*cover.encode(av.VideoFrame(64, 48, "yuvj420p")), *cover.encode()])
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 48000
        out.mux([*sound.encode(silence), *sound.encode()])
    for name, says in (
        ("words.txt", "words.txt holds no video"),
        ("song.mp4", "song.mp4 holds no video"),
        ("pipe.y4m", "pipe.y4m is no regular file; a clip comes through a pipe as y4m, with - as its name"),
    ):
        assert main(["video", str(tmp_path / name), "-o", str(tmp_path / "b.mkv")]) == 2
        assert says in capfd.readouterr().err
        assert main(["verify", str(tmp_path / name), str(stock / "a.mp4")]) == 2
        assert says in capfd.readouterr().err


def test_what_has_no_effect_is_said(stock: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.mp4", Recipe(frames=1, aspect=Fraction(32, 27)))
    model = str(stock / "tiny-image.safetensors")
    assert main(["video", str(tmp_path / "a.mp4"), "-o", str(tmp_path / "b"), "--model", model, "--rate", "5"]) == 0
    err = capfd.readouterr().err
    assert "msr: the clip has a frame rate of its own; --rate is for pictures\n" in err
    assert "msr: pictures cannot say that their pixels are not square (32:27)\n" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((".",), "the output '.' has no name"),
        (("",), "the output '' has no name"),
        (("", "--preview", "1"), "the output '' has no name"),
        (("-", "--pix-fmt", "foo"), "foo is no pixel format"),
        (("-", "--pix-fmt", "cuda"), "cuda is no pixel format"),
        (("b", "--crf", "3"), "pictures have no --codec, no --crf and no --pix-fmt"),
    ],
)
def test_outputs_that_cannot_be(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert video(stock, *words) == 2
    assert says in capfd.readouterr().err
    assert main(["video", "", "-o", "b.mp4"]) == 2
    assert "the input has no name" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "150"], "150"),
        (["--size", "150x100", "--fit", "10x10"], "only one of scale, size and fit"),
        (["--fit", "0x90"], "fit must be a width and a height from 1 to 65535"),
        (["--scale", "-1"], "scale"),
        (["--scale", "nan"], "scale"),
        (["--codec", "theora"], "theora"),
        (["--crf", "-3"], "CRF"),
        (["--crf", "1000"], "the CRF is 1000; libx264 takes numbers from 0 (no loss) to 51"),
        (["--pix-fmt", "pal8"], "pal8"),
        (["--start", "99"], "no frame from 99 s on"),
        (["--duration", "0"], "duration"),
        (["--rate", "none"], "none"),
        (["--preview", "0"], "preview"),
    ],
)
def test_words_that_cannot_be(
    stock: Path, tmp_path: Path, words: list[str], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert video(stock, tmp_path / "b.mp4", *words) == 2
    err = capfd.readouterr().err
    assert err.startswith("msr: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []
