"""What a dry run says: counts that are checked by hand, and nothing written."""

import dataclasses
import re
import sys
from pathlib import Path

import pytest
import torch
from originals import photo_folder, save, texture
from test_training import MODEL, config, tables, write
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from msr.cli import main
from msr.models import build_model, save_model
from msr.ops import conv_pixel_shuffle, conv_transpose2d, correlation, deform_conv2d
from msr.train.dry_run import _COUNTED, multiplications
from msr.train.trainer import Trainer


def test_operations_of_an_image_model_by_hand() -> None:
    # Head 3 to 8, a block of two and the trunk's end 8 to 8, 8 to 12 for the sub-pixels; attention is next to nothing.
    by_hand = 180 * 320 * 9 * (3 * 8 + 3 * 8 * 8 + 8 * 12)
    counted = multiplications("image", MODEL)
    assert by_hand <= counted < 1.001 * by_hand


def test_our_ops_count_as_torchs_own() -> None:
    x, weight = torch.rand(1, 6, 10, 12), torch.rand(12, 6, 3, 3)

    def counted(run: object) -> int:
        with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
            run()  # type: ignore[operator]
        return counter.get_total_flops()

    plain = counted(lambda: F.conv2d(x, weight, padding=1))
    assert plain == 2 * 10 * 12 * 12 * 6 * 9
    assert counted(lambda: deform_conv2d(x, torch.zeros(1, 18, 10, 12), weight, padding=1)) == plain
    assert counted(lambda: conv_pixel_shuffle(x, weight, torch.zeros(12), 2)) == plain
    up = torch.rand(6, 3, 8, 8)
    ours = counted(lambda: conv_transpose2d(x, up, stride=4, padding=2))
    assert ours == counted(lambda: F.conv_transpose2d(x, up, stride=4, padding=2))
    assert counted(lambda: correlation(x, x, 4)) == 2 * 81 * 6 * 10 * 12


@pytest.mark.parametrize("kind", ["video", "burst", "burst-raw"])
def test_operations_of_the_other_kinds(kind: str) -> None:
    image = multiplications("image", MODEL)
    assert image < multiplications(kind, MODEL, 2)
    if kind != "video":
        assert multiplications(kind, MODEL, 2) < multiplications(kind, MODEL, 4)


def test_operations_of_a_pass_back_are_shared_by_the_frames_that_it_serves() -> None:
    none, one, two = (multiplications("video", {**MODEL, "backward_blocks": blocks}) for blocks in (0, 1, 2))
    # Of a block more, two convolutions from 8 to 8 channels: over fifteen frames to come, every ten frames.
    assert two - one == 180 * 320 * 9 * 2 * 64 * 15 // 10
    assert one - none > two - one


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photo_folder(tmp_path / "photos", 2, 96)
    run = tables("image", photos, tmp_path / "out" / "mine.safetensors", steps=100, stages=[[0.5, 6, 1]])
    run["data"]["validation"] = str(photos)
    path = write(tmp_path / "c.toml", **run)
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "--dry-run", str(path)]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert f"{sum(p.numel() for p in build_model('image', MODEL).parameters()):,} parameters" in said
    assert f"{multiplications('image', MODEL) / 1e9:.2f} GMACs for a frame of 320x180" in said
    assert "2 photos in" in said
    assert "2 originals for validation" in said
    assert [float(x) > 0 for x in re.findall(r"([\d.]+) s for 2 of [68]x[68];", said)] == [True, True]
    assert "for 100 steps" in said
    assert "for the process at its peak" in said
    run["train"]["init"] = [str(tmp_path / "source.safetensors")]
    source = {**MODEL, "upsampler": "deconvolution"}
    save_model(build_model("image", source), "image", source, tmp_path / "source.safetensors")
    assert main(["train", "--dry-run", str(write(path, **run))]) == 0
    assert re.search(r"taken over +\d+ of \d+ tensors", capsys.readouterr().out)
    run["data"]["validation"] = str(tmp_path / "none")
    assert main(["train", "--dry-run", str(write(path, **run))]) == 2
    assert "no such folder of photos" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "side"), [("image", 5), ("video", 17), ("burst", 11), ("burst-raw", 35)])
@pytest.mark.parametrize("dry", [True, False])
def test_originals_for_validation_are_looked_at_before_the_first_step(
    dry: bool, kind: str, side: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tables(kind, photo_folder(tmp_path / "photos", 2, 128), tmp_path / "mine.safetensors")
    run["degradation"]["name"] = {"burst": "box", "burst-raw": "raw"}.get(kind, "bi")
    run["data"]["validation"] = str(tmp_path / "validation")
    arguments = ["train", *["--dry-run"] * dry, str(write(tmp_path / "c.toml", **run))]
    clip = tmp_path / "validation" / "clip"
    for name, height in (("f1.png", side + 40), ("f10.png", side)):
        save(clip / name, texture(0, height, side + 40))
    assert main(arguments) == 2
    assert f"f10.png is too small for validation: it needs {side + 1} pixels a side" in capsys.readouterr().err
    data = save(clip / "f10.png", texture(0, side + 40, side + 40)).read_bytes()
    (clip / "f10.png").write_bytes(data[: len(data) // 2])
    assert main(arguments) == 2
    assert "f10.png is damaged" in capsys.readouterr().err
    assert not list(tmp_path.glob("mine.*"))


def test_frames_for_validation_come_in_their_natural_order(tmp_path: Path) -> None:
    for index in range(12):
        save(tmp_path / "validation" / "clip" / f"f{index}.png", texture(index, 24, 24))
    made = config("video", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors")
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, validation=str(tmp_path / "validation")))
    (frames,) = Trainer(made).task.validation  # type: ignore[attr-defined]
    assert [path.name for path in frames] == [f"f{index}.png" for index in range(9)]


def test_a_dry_run_misses_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tables("image", photo_folder(tmp_path / "photos"), tmp_path / "mine.safetensors", tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["train", "--dry-run", str(write(tmp_path / "c.toml", **run))]) == 2
    assert "tensorboard needs the package tensorboard" in capsys.readouterr().err
