"""A run that is stopped in any way hangs nowhere, leaves nothing half-written, and goes on to the same frames."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import Recipe, truncate, write
from made import clip, picture, weights

import msr
from msr.cli import main
from msr.errors import InputError, LastingError, WorkError
from msr.io import EncoderSettings, write_image
from msr.pipelines import VideoOptions, preview_video
from msr.pipelines.job import Job, job_folder
from msr.pipelines.progress import Report

#: No run of these tests takes longer; one that hangs ends here.
PATIENCE = 600

ROOT = Path(msr.__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
}


def decoded(path: Path) -> list[tuple[int | None, bytes]]:
    """Time and planes of every frame."""
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]


def options(**others: object) -> VideoOptions:
    return VideoOptions(segment=3, **others)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 14 frames with audio, a tiny model, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("resume")
    weights(folder, "video", scale=2)
    clip(folder / "a.mp4", 14, audio="aac")
    model = folder / "tiny-video.safetensors"
    msr.upscale_video(folder / "a.mp4", folder / "whole.mp4", model=model, options=options())
    return folder


class Stop(Report):
    """Ends the run after a number of frames, as an error or a key would."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.left, self.error = after, error

    def advance(self) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_twenty_moments(stock: Path, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", 40)
    command = [sys.executable, "-W", "ignore", "-m", "pipelines.endure", source, tmp_path / "b.mkv"]
    command += [stock / "tiny-video.safetensors", "20", "0"]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
    told = json.loads(done.stdout)
    assert told["killed"] == 20
    assert told["partial"] == 0
    # Some were killed in mid-work: otherwise nothing was resumed.
    assert len(set(told["found"])) > 1
    assert decoded(tmp_path / "b.mkv") == decoded(tmp_path / "undisturbed.mkv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mkv", "undisturbed.mkv"]


@pytest.mark.parametrize("after", [1, 3, 8, 14])
def test_stopped_by_the_user(stock: Path, tmp_path: Path, after: int) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt) as stopped:
        msr.upscale_video(
            stock / "a.mp4", target, model=model, options=options(), progress=Stop(after, KeyboardInterrupt())
        )
    assert not target.exists()
    if job_folder(target).exists():
        kept = json.loads((job_folder(target) / "journal.json").read_text())["frames"]
        assert str(stopped.value) == f"{kept} frames are done and kept; the same command with --resume goes on"
        with pytest.raises(InputError, match=f"begun before and {kept} frames of it are done: add --resume"):
            msr.upscale_video(stock / "a.mp4", target, model=model, options=options())
        assert json.loads((job_folder(target) / "journal.json").read_text())["frames"] == kept
    else:
        assert str(stopped.value) == ""
    written = msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    assert written.frames == 14
    assert decoded(target) == decoded(stock / "whole.mp4")
    assert list(tmp_path.iterdir()) == [target]


def test_what_was_asked_must_be_the_same(stock: Path, tmp_path: Path) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "b.mp4"
    with pytest.raises(WorkError, match=r"the lamp went out; [369] frames are done and kept"):
        msr.upscale_video(
            stock / "a.mp4", target, model=model, options=options(), progress=Stop(10, WorkError("the lamp went out"))
        )
    other = options(resume=True, encoder=EncoderSettings(crf=30))
    with pytest.raises(InputError, match=r"cannot go on with .*b\.mp4: encoder was crf=None and is now crf=30; ask"):
        msr.upscale_video(stock / "a.mp4", target, model=model, options=other)
    with pytest.raises(InputError, match=r"written as was width=128 and is now width=100; ask"):
        msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True, size=(100, 60)))
    assert (job_folder(target) / "000000.mkv").exists()
    (job_folder(target) / "journal.json").write_text("{")
    with pytest.raises(InputError, match=r"journal\.json cannot be used"):
        msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    assert not target.exists()


@pytest.mark.parametrize("name", ["b.mp4", "b"])
def test_stopped_while_all_is_joined(stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / name

    def full(*_: object, **__: object) -> None:
        raise WorkError("No space left on device")

    with monkeypatch.context() as patch:
        for joins in ("assemble", "join_folders"):
            patch.setattr(f"msr.io.{joins}", full)
        with pytest.raises(WorkError, match="No space left on device; 14 frames are done and kept"):
            msr.upscale_video(stock / "a.mp4", target, model=model, options=options())
    written = msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    assert written.frames == 14
    if target.is_dir():
        assert len(list(target.iterdir())) == 14
    else:
        assert decoded(target) == decoded(stock / "whole.mp4")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("name", ["b.mp4", "b"])
def test_killed_while_all_is_joined(stock: Path, tmp_path: Path, name: str) -> None:
    program = (
        "import os, signal, sys; import msr.io.frames, msr.io.packets; from msr.cli import main\n"
        "killed = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "msr.io.packets.Joined.packets = msr.io.frames._link = killed\n"
        "main(sys.argv[1:])"
    )
    model, target = str(stock / "tiny-video.safetensors"), tmp_path / name
    words = ["video", str(stock / "a.mp4"), "-o", str(target), "--model", model, "-q"]
    assert subprocess.run([sys.executable, "-c", program, *words], env=ENVIRONMENT, timeout=PATIENCE).returncode == -9
    assert list(tmp_path.iterdir()) == [job_folder(target)]
    assert main([*words, "--resume"]) == 0
    assert list(tmp_path.iterdir()) == [target]


def test_segments_that_are_damaged_promise_nothing(stock: Path, tmp_path: Path) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "b.mp4"
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(
            stock / "a.mp4", target, model=model, options=options(), progress=Stop(10, KeyboardInterrupt())
        )
    segment = job_folder(target) / "000000.mkv"
    segment.write_bytes(segment.read_bytes()[:-50])
    with pytest.raises(
        LastingError, match=r"000000\.mkv is no segment .*; 14 frames are done and kept in .*\.b\.mp4\.msr$"
    ):
        msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    segment.unlink()
    with pytest.raises(LastingError, match=r"000000\.mkv is missing; 14 frames are done and kept in .*\.b\.mp4\.msr$"):
        msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))


def test_a_folder_that_is_removed_by_half_names_no_segments(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "b.mp4"

    def killed(folder: Path, **_: object) -> None:
        (folder / "000000.mkv").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            msr.upscale_video(stock / "a.mp4", target, model=model, options=options())
    assert decoded(target) == decoded(stock / "whole.mp4")
    target.unlink()
    assert job_folder(target).exists()
    msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    assert decoded(target) == decoded(stock / "whole.mp4")
    assert list(tmp_path.iterdir()) == [target]


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    with Job(tmp_path / "b.mp4", {}, False), pytest.raises(InputError, match="another process is writing"):
        Job(tmp_path / "b.mp4", {}, True)
    with Job(tmp_path / "b.mp4", {}, True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_is_damaged_in_the_middle(stock: Path, tmp_path: Path) -> None:
    source, target, model = tmp_path / "a.mkv", tmp_path / "b.mkv", stock / "tiny-video.safetensors"
    clip(source, 14, codec="ffv1")
    good = source.read_bytes()
    msr.upscale_video(source, tmp_path / "whole.mkv", model=model, options=options())
    source.write_bytes(good[: len(good) * 3 // 4])
    with pytest.raises(WorkError, match=r"a\.mkv is (truncated|damaged).*; [369] frames are done and kept"):
        msr.upscale_video(source, target, model=model, options=options())
    assert not target.exists()
    # The copy was broken off; now it is whole, and another file by its size.
    source.write_bytes(good)
    with pytest.raises(InputError, match="source was"):
        msr.upscale_video(source, target, model=model, options=options(resume=True))


def test_damage_is_passed_over_where_a_run_goes_on(stock: Path, tmp_path: Path) -> None:
    source, target, model = tmp_path / "a.mkv", tmp_path / "b.mkv", stock / "tiny-video.safetensors"
    truncate(clip(source, 14, codec="ffv1"))
    with pytest.raises(
        LastingError, match=r"; --keep-going passes over it; [369] frames are done and kept for --resume$"
    ):
        msr.upscale_video(source, target, model=model, options=options())
    msr.upscale_video(source, target, model=model, options=options(resume=True, keep_going=True))
    msr.upscale_video(source, tmp_path / "whole.mkv", model=model, options=options(keep_going=True))
    assert decoded(target) == decoded(tmp_path / "whole.mkv")


def test_interlaced_frames_that_come_late(stock: Path, tmp_path: Path) -> None:
    """Ten progressive frames, then ten interlaced ones: a run goes on with deinterlacing, and not without again."""
    source, target, model = tmp_path / "a.ts", tmp_path / "b.mkv", stock / "tiny-video.safetensors"
    for name, interlaced in (("p", False), ("i", True)):
        write(tmp_path / f"{name}.h264", Recipe(frames=10, interlaced=interlaced, options=(("bf", "0"),)))
    with av.open(str(source), "w") as out:
        stream, count = None, 0
        for name in ("p", "i"):
            with av.open(str(tmp_path / f"{name}.h264")) as part:
                stream = stream or out.add_stream_from_template(part.streams.video[0], opaque=True)
                for packet in part.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = count
                        packet.time_base, packet.stream, count = Fraction(1, 25), stream, count + 1
                        out.mux(packet)
    with pytest.raises(
        InputError, match=r"is interlaced \(frame 10\); --deinterlace .*; [369] frames are done and kept for"
    ):
        msr.upscale_video(source, target, model=model, options=options())
    again = options(resume=True, deinterlace=True)
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(source, target, model=model, options=again, progress=Stop(6, KeyboardInterrupt()))
    with pytest.raises(InputError, match="deinterlace was True and is now False"):
        msr.upscale_video(source, target, model=model, options=options(resume=True))
    msr.upscale_video(source, target, model=model, options=again)
    msr.upscale_video(source, tmp_path / "whole.mkv", model=model, options=options(deinterlace=True))
    assert decoded(target) == decoded(tmp_path / "whole.mkv")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_that_fills_up(stock: Path, tmp_path: Path) -> None:
    """No file may grow beyond a limit: even frames fit, noise does not; with room again the run goes on."""
    import resource

    source, target, whole = tmp_path / "a.mkv", tmp_path / "b.mkv", tmp_path / "whole.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(source), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(14):
            frame = np.full((48, 64, 3), 128, np.uint8) if index < 7 else rng.integers(0, 256, (48, 64, 3), np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(video.encode())
    weights(tmp_path, "image", scale=2)
    asked = {"model": tmp_path / "tiny-image.safetensors"}
    exact = EncoderSettings(crf=0)
    msr.upscale_video(source, whole, **asked, options=options(encoder=exact))  # type: ignore[arg-type]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(WorkError) as failed:
            msr.upscale_video(source, target, **asked, options=options(encoder=exact))  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert str(failed.value).startswith(f"cannot write {target}: ")
    assert str(failed.value).endswith("; 6 frames are done and kept; the same command with --resume goes on")
    assert sorted(path.name for path in job_folder(target).glob("*.mkv")) == ["000000.mkv", "000001.mkv"]
    assert not target.exists()
    msr.upscale_video(source, target, **asked, options=options(encoder=exact, resume=True))  # type: ignore[arg-type]
    assert decoded(target) == decoded(whole)


def test_pictures_are_resumed_too(stock: Path, tmp_path: Path) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "out"
    msr.upscale_video(stock / "a.mp4", tmp_path / "whole", model=model, options=options())
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(
            stock / "a.mp4", target, model=model, options=options(), progress=Stop(10, KeyboardInterrupt())
        )
    assert not target.exists()
    msr.upscale_video(stock / "a.mp4", target, model=model, options=options(resume=True))
    names = [path.name for path in sorted(target.iterdir())]
    assert names == [f"{index:06d}.png" for index in range(14)]
    assert [(target / name).read_bytes() for name in names] == [(tmp_path / "whole" / n).read_bytes() for n in names]


def stopped_on_pictures(folder: Path, source: str, target: Path, model: Path) -> None:
    (folder / "in").mkdir()
    for index in range(6):
        write_image(folder / "in" / f"{index}.png", picture(seed=index))
    # What is encoded may be some frames behind; of five the first is done.
    each = VideoOptions(segment=1)
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(folder / source, target, model=model, options=each, progress=Stop(5, KeyboardInterrupt()))
    assert list(job_folder(target).glob("*.mkv"))


@pytest.mark.parametrize("source", ["in", "in/%d.png"])
def test_pictures_that_were_replaced(stock: Path, tmp_path: Path, source: str) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "b.mkv"
    stopped_on_pictures(tmp_path, source, target, model)
    write_image(tmp_path / "in" / "3.png", picture(seed=9))
    with pytest.raises(InputError, match=r"source was .* of \d+ bytes and is now .* of \d+ bytes; ask"):
        msr.upscale_video(tmp_path / source, target, model=model, options=VideoOptions(segment=1, resume=True))


@pytest.mark.parametrize("source", ["in", "in/%d.png"])
def test_an_output_among_the_pictures(stock: Path, tmp_path: Path, source: str) -> None:
    model, target = stock / "tiny-video.safetensors", tmp_path / "in" / "b.mkv"
    stopped_on_pictures(tmp_path, source, target, model)
    (tmp_path / "in" / ".#lock").symlink_to("nothing")
    resumed = VideoOptions(segment=1, resume=True)
    assert msr.upscale_video(tmp_path / source, target, model=model, options=resumed).frames == 6


def test_a_preview_that_was_killed_is_made_anew(stock: Path, tmp_path: Path) -> None:
    model = stock / "tiny-video.safetensors"
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(
            stock / "a.mp4",
            tmp_path / "b.preview.mp4",
            model=model,
            options=options(),
            progress=Stop(9, KeyboardInterrupt()),
        )
    assert job_folder(tmp_path / "b.preview.mp4").exists()
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        preview_video(stock / "a.mp4", tmp_path / "b.mp4", 0.4, model=model, progress=Stop(9, KeyboardInterrupt()))
    assert not list(tmp_path.iterdir())
    preview_video(stock / "a.mp4", tmp_path / "b.mp4", 0.1, model=model)
    assert {path.name for path in tmp_path.iterdir()} == {"b.preview.mp4", "b.preview.png"}


def test_a_picture_that_appeared_meanwhile_is_not_replaced(stock: Path, tmp_path: Path) -> None:
    target, asked = tmp_path / "%06d.png", {"model": stock / "tiny-video.safetensors"}
    with pytest.raises(KeyboardInterrupt):
        msr.upscale_video(stock / "a.mp4", target, **asked, options=options(), progress=Stop(10, KeyboardInterrupt()))  # type: ignore[arg-type]
    # Killed while it joined: one of the pictures is in its place already, and does not stand in the way.
    os.link(job_folder(target) / "000000.mkv" / "000001.png", tmp_path / "000001.png")

    class Meanwhile(Report):
        def advance(self) -> None:
            (tmp_path / "000005.png").write_bytes(b"mine")

    with pytest.raises(InputError, match=r"000005\.png exists.*; 14 frames are done and kept"):
        msr.upscale_video(stock / "a.mp4", target, **asked, options=options(resume=True), progress=Meanwhile())  # type: ignore[arg-type]
    assert (tmp_path / "000005.png").read_bytes() == b"mine"
    (tmp_path / "000005.png").unlink()
    msr.upscale_video(stock / "a.mp4", target, **asked, options=options(resume=True))  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 14


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    """Processes that do not outlive the test."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "msr", "video", *map(str, words)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_terminal(
    stock: Path, tmp_path: Path, processes: list[subprocess.Popen], number: signal.Signals
) -> None:
    """The source is a pipe that falls silent, so that the run is caught while it waits."""
    target = tmp_path / "b.mkv"
    frame = b"FRAME\n" + bytes(64 * 48 * 3 // 2)
    process = subprocess.Popen(
        command("-", "-o", target, "--model", stock / "tiny-video.safetensors"),
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        # Where these tests run in the background of a shell, the signal is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    processes.append(process)
    assert process.stdin is not None
    process.stdin.write(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420mpeg2\n" + frame * 100)
    process.stdin.flush()
    journal = job_folder(target) / "journal.json"
    deadline = time.monotonic() + PATIENCE
    while not journal.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert journal.exists(), "no segment was finished"
    process.send_signal(number)
    assert process.wait(PATIENCE) == 130
    assert process.stderr is not None
    said = process.stderr.read().decode().splitlines()[-1]
    assert said == "msr: interrupted; 96 frames are done and kept; the same command with --resume goes on"
    assert list(tmp_path.iterdir()) == [job_folder(target)]


def test_a_reader_of_our_output_that_dies(stock: Path, processes: list[subprocess.Popen]) -> None:
    process = subprocess.Popen(
        command(stock / "a.mp4", "-o", "-", "--model", stock / "tiny-video.safetensors", "-q"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    processes.append(process)
    assert process.stdout is not None
    assert process.stdout.read(9) == b"YUV4MPEG2"
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
