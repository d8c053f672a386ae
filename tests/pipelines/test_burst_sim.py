"""`msr burst-sim`: frames that can be read back, and the truth that they show."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from msr import io
from msr.cli import main
from msr.degradation import to_tensor
from msr.metrics import psnr
from msr.ops.resize import resize


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(0).uniform(30, 200, (6, 8, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    io.write_image(tmp_path / "photo.png", picture)
    return tmp_path / "photo.png"


def test_raw_frames_show_the_truth(photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "burst"
    assert main(["burst-sim", str(photo), "-o", str(target), "--count", "2", "--noise", "0", "0"]) == 0
    assert sorted(p.name for p in target.rglob("*.*")) == ["00.dng", "01.dng", "truth.png"]
    truth = to_tensor(io.convert_depth(io.read_image(target / "truth.png").pixels, "uint8"))
    shown = to_tensor(io.convert_depth(io.read_raw(target / "frames" / "00.dng"), "uint8"))
    assert truth.shape == (3, 96, 128)
    assert shown.shape == (3, 48, 64)
    assert psnr(resize(shown[None], scale=2)[0], truth, crop=8) > 33.0
    assert psnr(truth, to_tensor(io.read_image(photo).pixels)) > 50.0


def test_jpeg_frames_show_the_truth_and_the_seed_decides(photo: Path, tmp_path: Path) -> None:
    frames = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        words = ["--jpeg", "--noise", "0.02", "--moving", "--count", "3", "--seed", seed]
        assert main(["burst-sim", str(photo), "-o", str(tmp_path / name), *words]) == 0
        frames.append([io.read_image(p).pixels for p in sorted((tmp_path / name / "frames").iterdir())])
    for first, again, other in zip(*frames, strict=True):
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
    assert len(frames[0]) == 3
    truth = to_tensor(io.convert_depth(io.read_image(tmp_path / "a" / "truth.png").pixels, "uint8"))
    first, last = (resize(to_tensor(frame)[None], scale=2)[0].clamp(0, 1) for frame in frames[0][::2])
    assert psnr(first, truth) > max(25.0, psnr(last, truth) + 1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--count", "0"], "a burst has from 1 to 1000 frames, got 0"),
        (["--scale", "9"], "the scale must be a whole number from 1 to 8, got 9"),
        (["--noise", "0.1"], "the noise must be two numbers"),
        (["--noise", "0.1", "0.1", "--jpeg"], "the noise must be one number"),
        (["--shift", "nan"], "the shift must be from 0 to 1000 pixels, got nan"),
        (["--seed", "-1"], "the seed must not be negative"),
        (["--dng", "--jpeg"], "not allowed with argument"),
    ],
)
def test_wrong_words(words: list[str], said: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["burst-sim", str(photo), "-o", str(tmp_path / "burst"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "burst").exists()


def test_an_existing_folder_is_kept(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["burst-sim", str(photo), "-o", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert photo.exists()
