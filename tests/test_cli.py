"""The command line: bad input ends in one sentence and the right exit code, and leaves nothing half-written."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made import clip, picture, weights

from msr.cli import main
from msr.io import VideoReader, read_image, write_image


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad inputs, and tiny models, by name."""
    folder = tmp_path_factory.mktemp("stock")
    for kind in ("image", "video", "burst"):
        weights(folder, kind, scale=2)
    write_image(folder / "a.png", picture())
    write_image(folder / "b.png", np.roll(picture(), 1, 1))
    write_image(folder / "small.png", picture(20, 30))
    write_image(folder / "alpha.png", np.zeros((8, 8, 4), np.uint8))
    clip(folder / "a.mp4", 4)
    clip(folder / "cut.mkv", 20)
    (folder / "cut.mkv").write_bytes((folder / "cut.mkv").read_bytes()[: (folder / "cut.mkv").stat().st_size * 2 // 3])
    (folder / "empty.png").touch()
    (folder / "empty.mp4").touch()
    (folder / "text.png").write_text("not a picture")
    (folder / "text.mp4").write_text("not a clip")
    (folder / "garbage.safetensors").write_bytes(b"\xff" * 100)
    (folder / "folder").mkdir()
    (folder / "mixed").mkdir()
    write_image(folder / "mixed" / "1.png", picture())
    write_image(folder / "mixed" / "2.png", picture(20, 30))
    return folder


IMAGE, VIDEO, BURST = (["--model", f"tiny-{kind}.safetensors"] for kind in ("image", "video", "burst"))
BAD = {
    "missing picture": (["image", "none.png", "-o", "out.png", *IMAGE], 2, "none.png does not exist"),
    "missing clip": (["video", "none.mp4", "-o", "out.mp4", *VIDEO], 2, "none.mp4 does not exist"),
    "missing frame": (["burst", "a.png", "none.png", "-o", "out.png", *BURST], 2, "none.png does not exist"),
    "empty picture": (["image", "empty.png", "-o", "out.png", *IMAGE], 2, "empty.png is empty"),
    "empty clip": (["video", "empty.mp4", "-o", "out.mp4", *VIDEO], 2, "empty.mp4 is empty"),
    "not a picture": (["image", "text.png", "-o", "out.png", *IMAGE], 2, "text.png is not an image"),
    "not a clip": (["video", "text.mp4", "-o", "out.mp4", *VIDEO], 2, "text.mp4 is not a clip"),
    "text as a burst": (["burst", "text.mp4", "-o", "out.png", *BURST], 2, "text.mp4 is not a clip"),
    "a clip among pictures": (["burst", "a.png", "a.mp4", "-o", "out.png"], 2, "a.mp4 is a clip"),
    "unknown method": (["burst", "a.png", "b.png", "-o", "out.png", "--method", "magic"], 2, "handheld or learned"),
    "unknown base": (["burst", "a.png", "b.png", "-o", "out.png", "--scale", "2", "--base", "7"], 2, "from 0 to 1"),
    "base in words": (["burst", "a.png", "b.png", "-o", "out.png", "--scale", "2", "--base", "best"], 2, "sharpest"),
    "endless base": (["burst", "a.png", "b.png", "-o", "out.png", "--base", "9" * 5000, *BURST], 2, "from 0 to 1"),
    "tile of no method": (
        ["burst", "a.png", "b.png", "-o", "out.png", "--scale", "2", "--tile", "-5"],
        2,
        "tile must be",
    ),
    "dtype of no method": (["burst", "a.png", "b.png", "-o", "out.png", "--scale", "2", "--dtype", "int8"], 2, "int8"),
    "scale of no method": (["burst", "a.png", "b.png", "-o", "out.png", "--scale", "5"], 2, "1 to 4 times, not 5"),
    "scale that is none": (["burst", "a.png", "b.png", "-o", "out.png", "--scale", "nan"], 2, "number from 1"),
    "DNG of pictures": (["burst", "a.png", "b.png", "-o", "out.dng", "--scale", "2"], 2, "DNG is for RAW frames"),
    "truncated clip": (["video", "cut.mkv", "-o", "out.mp4", *VIDEO], 1, "cut.mkv is truncated"),
    "frames of different sizes": (["video", "mixed", "-o", "out.mp4", *VIDEO], 2, "frame 1 is 30x20, expected 64x48"),
    "burst of different sizes": (["burst", "mixed", "-o", "out.png", *BURST], 2, "2.png is 30x20, expected 64x48"),
    "scale with no weights": (["image", "a.png", "-o", "out.png", "--scale", "7"], 2, "no image weights for scale 7"),
    "scale of another model": (
        ["image", "a.png", "-o", "out.png", "--scale", "4", *IMAGE],
        2,
        "enlarges 2 times, not 4",
    ),
    "model of another kind": (["image", "a.png", "-o", "out.png", *VIDEO], 2, "is of kind video"),
    "unknown model": (["image", "a.png", "-o", "out.png", "--model", "nobody"], 2, "unknown model 'nobody'"),
    "missing weights": (["image", "a.png", "-o", "out.png", "--model", "no.safetensors"], 2, "no such weights file"),
    "garbage weights": (
        ["image", "a.png", "-o", "out.png", "--model", "garbage.safetensors"],
        2,
        "garbage.safetensors",
    ),
    "no output folder": (["image", "a.png", "-o", "no/out.png", *IMAGE], 2, "the folder no does not exist"),
    "no clip folder": (["video", "a.mp4", "-o", "no/out.mp4", *VIDEO], 2, "the folder no does not exist"),
    "a file as folder": (["burst", "a.png", "-o", "text.png/out.png", *BURST], 2, "text.png does not exist"),
    "unknown output": (["image", "a.png", "-o", "out.doc", *IMAGE], 2, "must end in"),
    "name that is too long": (["image", "a.png", "-o", "b" * 300 + ".png", *IMAGE], 2, "File name too long"),
    "burst with such a name": (["burst", "a.png", "-o", "b" * 300 + ".png", *BURST], 2, "File name too long"),
    "unknown container": (["video", "a.mp4", "-o", "out.doc", *VIDEO], 2, "must end in"),
    "alpha to JPEG": (["image", "alpha.png", "-o", "out.jpg", *IMAGE], 2, "no alpha"),
    "picture over itself": (["image", "a.png", "-o", "./a.png", *IMAGE], 2, "also an input"),
    "clip over itself": (["video", "a.mp4", "-o", "a.mp4", *VIDEO], 2, "also an input"),
    "burst over itself": (["burst", "a.png", "small.png", "-o", "small.png", *BURST], 2, "also an input"),
    "no inputs": (["image", "-o", "out.png"], 2, "IN"),
    "no output": (["image", "a.png"], 2, "-o/--output"),
    "no command": ([], 2, "COMMAND"),
    "unknown command": (["paint"], 2, "paint"),
    "unknown option": (["image", "a.png", "-o", "out.png", "--colour"], 2, "--colour"),
    "scale in words": (["image", "a.png", "-o", "out.png", "--scale", "four"], 2, "four"),
    "folder as picture": (["image", "folder", "-o", "out.png", *IMAGE], 2, "folder is a folder"),
    "folder without pictures": (["burst", "folder", "-o", "out.png", *BURST], 2, "folder holds no pictures"),
    "folder as output": (["burst", "a.png", "-o", "folder.png/..", *BURST], 2, "folder"),
    "several inputs to a file": (["image", "a.png", "small.png", "-o", "text.png", *IMAGE], 2, "need a folder"),
    "negative tile": (["image", "a.png", "-o", "out.png", "--tile", "-4", *IMAGE], 2, "tile must be"),
    "unknown device": (["image", "a.png", "-o", "out.png", "--device", "abacus", *IMAGE], 2, "abacus"),
    "unknown dtype": (["video", "a.mp4", "-o", "out.mp4", "--dtype", "int4", *VIDEO], 2, "int4"),
    "missing config": (["train", "none.toml"], 2, "none.toml"),
    "unknown protocol": (["eval", "--protocol", "nothing", "folder", "--model", *IMAGE[1:]], 2, "nothing"),
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    stock: Path, case: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, code, says = BAD[case]
    monkeypatch.chdir(stock)
    before = files(stock)
    assert main(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("msr: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert files(stock) == before


def test_a_process_says_it_too(stock: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "msr", "image", "none.png", "-o", "o.png"], cwd=stock, capture_output=True
    )
    assert (run.returncode, run.stdout) == (2, b"")
    assert run.stderr == b"msr: error: none.png does not exist\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_is_one_sentence(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for the full disk: the write fails when the file is half there."""
    import resource

    monkeypatch.chdir(stock)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, arguments in (("o.png", ["image", "a.png", *IMAGE]), ("o.mp4", ["video", "a.mp4", *VIDEO])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            code = main([*arguments, "-o", str(tmp_path / name)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        err = capfd.readouterr().err
        assert (code, err.count("\n")) == (1, 1)
        assert err.startswith(f"msr: error: cannot write {tmp_path / name}: ")
        assert list(tmp_path.iterdir()) == []
    signal.signal(signal.SIGXFSZ, handler)


def test_image_video_and_burst_work(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stock)
    assert main(["image", "a.png", "-o", str(tmp_path / "a.png"), *IMAGE]) == 0
    assert main(["image", "a.png", "small.png", "-o", str(tmp_path / "both"), "--tile", "32", *IMAGE]) == 0
    assert main(["image", "a.png", "-o", str(tmp_path / "mean.png"), "--ensemble", "-q", *IMAGE]) == 0
    assert main(["video", "a.mp4", "-o", str(tmp_path / "a.mkv"), *VIDEO]) == 0
    assert main(["burst", "a.png", "b.png", "-o", str(tmp_path / "b.tif"), *BURST]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 5
    assert "a.png: 128x96 in " in lines[0]
    assert "a.mkv: 128x96, 4 frames in " in lines[3]
    assert read_image(tmp_path / "a.png").pixels.shape == (96, 128, 3)
    assert read_image(tmp_path / "both" / "small.png").pixels.shape == (40, 60, 3)
    assert read_image(tmp_path / "b.tif").pixels.shape == (96, 128, 3)
    with VideoReader(tmp_path / "a.mkv") as reader:
        assert [frame.pixels.shape for frame in reader] == [(96, 128, 3)] * 4


def test_quiet_is_quiet_and_an_existing_output_is_replaced(
    stock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stock)
    (tmp_path / "a.png").write_text("old")
    assert main(["image", "a.png", "-o", str(tmp_path / "a.png"), "-q", *IMAGE]) == 0
    assert capfd.readouterr() == ("", "")
    assert read_image(tmp_path / "a.png").pixels.shape == (96, 128, 3)


def test_info_and_models_print_tables(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "msr::flow_warp" in out
    assert "torch" in out
    assert main(["models"]) == 0
    assert capfd.readouterr().out.startswith("name")


def test_help_names_the_options(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["video", "--help"])
    assert stop.value.code == 0
    assert "--tile" in capfd.readouterr().out
