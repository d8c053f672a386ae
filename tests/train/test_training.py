"""Whole training runs, tiny: weights that load, a log, a picture, a card; and going on after a kill."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from originals import frame_folder, moving, photo_folder, video_file

from msr.errors import InputError
from msr.models import ModelCard, build_model, load_model, save_model
from msr.ops import resize
from msr.train import train
from msr.train.batches import batches
from msr.train.config import Config, DataConfig, DegradationConfig, TrainConfig
from msr.train.trainer import Trainer

MODEL = {"channels": 8, "blocks": 1, "scale": 2}


def toml(value: Any) -> str:
    return json.dumps(value)  # strings, numbers, lists and booleans are written alike


def write(path: Path, **tables: dict[str, Any]) -> Path:
    """A configuration file of these tables."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", 2, 96)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    frame_folder(tmp_path / "clips" / "folder", moving(0, 8, 48, 48))
    video_file(tmp_path / "clips" / "file.mp4", moving(1, 8, 48, 48))
    (tmp_path / "clips" / "notes.txt").write_text("not a clip")
    return tmp_path / "clips"


@pytest.fixture
def validation_clips(tmp_path: Path) -> Path:
    frame_folder(tmp_path / "validation" / "one", moving(2, 3, 40, 48))
    return tmp_path / "validation"


def tables(kind: str, photos: Path, output: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """A run of two steps on tiny patches."""
    return {
        "model": {"kind": kind, **MODEL},
        "data": {"photos": str(photos), "description": "textures"},
        "degradation": {"name": "bi"},
        "train": {"output": str(output), "steps": 2, "batch": 2, "patch": 8, "frames": 3, **settings},
    }


def check_results(output: Path, kind: str, picture: tuple[int, int]) -> list[dict[str, Any]]:
    """Weights that load, a card that fits them, a picture of three side by side; returns the log."""
    model = load_model(output)
    assert (model.kind, model.scale) == (kind, 2)
    card = ModelCard(**json.loads(output.with_suffix(".json").read_text()))
    assert (card.name, card.kind, card.scale, card.phase) == (output.stem, kind, 2, model.phase)
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert card.data == "textures"
    shown = cv2.imread(str(output.with_suffix(".validation.png")))
    assert shown is not None
    assert shown.shape == (picture[0], 3 * picture[1], 3)
    log = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert any("loss" in entry for entry in log)
    assert log[-1]["final"]
    assert card.figures == {k: v for k, v in log[-1].items() if k not in ("step", "minutes", "final")}
    assert log[-1]["step"] == card.steps == 2
    return log


def test_image(tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "deep" / "mine.safetensors"
    run = tables("image", photos, output, validate_every=1)
    run["data"]["validation"] = str(photos)
    assert train(write(tmp_path / "c.toml", **run)) == output
    log = check_results(output, "image", (96, 96))
    assert [entry["step"] for entry in log if "validation" in entry] == [1, 2]
    assert all(10.0 < entry["validation"] < 80.0 for entry in log if "validation" in entry)
    assert not list(output.parent.glob("*.part"))


@pytest.mark.parametrize("degradation", ["bd", "real"])
def test_video(degradation: str, tmp_path: Path, photos: Path, clips: Path, validation_clips: Path) -> None:
    output = tmp_path / "mine.safetensors"
    run = tables("video", photos, output, flow_weight=0.1)
    run["model"]["phase"] = "corner" if degradation == "bd" else "centered"
    run["degradation"] |= {"name": degradation, "plain": 0.3, "h264": 0.7}
    run["data"] |= {"clips": str(clips), "clip_shrink": 1.0, "validation": str(validation_clips)}
    train(write(tmp_path / "c.toml", **run))
    log = check_results(output, "video", (40, 48))
    assert {"loss", "picture", "flow_error", "learning_rate"} <= log[0].keys()


def test_video_from_clips_alone(tmp_path: Path, clips: Path) -> None:
    output = tmp_path / "mine.safetensors"
    run = tables("video", Path(), output)
    run["data"] = {"clips": str(clips), "clip_shrink": 1.0}
    train(write(tmp_path / "c.toml", **run))
    assert load_model(output).kind == "video"


@pytest.mark.parametrize("degradation", ["box", "real"])
def test_burst(degradation: str, tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "mine.safetensors"
    run = tables("burst", photos, output, flow_weight=0.1)
    run["degradation"] = {"name": degradation, "noise": 0.01}
    run["data"]["validation"] = str(photos)
    train(write(tmp_path / "c.toml", **run))
    log = check_results(output, "burst", (96, 96))
    assert {"loss", "picture", "flow_error"} <= log[0].keys()


def test_raw_burst(tmp_path: Path) -> None:
    output, photos = tmp_path / "mine.safetensors", photo_folder(tmp_path / "photos", 2, 128)
    run = tables("burst-raw", photos, output, flow_weight=0.1, patch=10)
    run["degradation"] = {"name": "raw"}
    run["data"]["validation"] = str(photos)
    train(write(tmp_path / "c.toml", **run))
    log = check_results(output, "burst-raw", (128, 128))
    assert 0.0 < log[0]["loss"] < 1.0


def test_a_raw_batch_fits_together(tmp_path: Path) -> None:
    settings = config("burst-raw", photo_folder(tmp_path, 2, 240), tmp_path / "a.safetensors", patch=48)
    trainer = Trainer(settings)
    batch = trainer.task.sample(np.random.default_rng(0))
    lr, hr = batch["lr"], batch["hr"]
    assert lr.shape[2:] == (7, 48, 48)
    assert hr.shape == (2, 3, 96, 96)
    assert batch["truth"].shape == batch["flows"].shape == (2, lr.shape[1] - 1, 2, 48, 48)
    off = (batch["flows"] - batch["truth"]).abs()
    assert 0.0 < off.mean() < 0.3
    assert torch.equal(lr[:, :, 3:6].sum(dim=2), torch.ones_like(lr[:, :, 0]))

    def soft(x: torch.Tensor) -> torch.Tensor:  # noise is strong at a pixel, weak in the mean
        return torch.nn.functional.avg_pool2d(x, 8)

    assert (soft(batch["merged"]) - soft(hr)).abs().mean() < 0.05
    base = lr[:, 0, :3]
    error = (soft(resize(base, scale=2)) - soft(hr)).abs().mean()
    shifted = (soft(resize(base.roll(2, -1), scale=2)) - soft(hr))[..., 1:].abs().mean()
    assert error < 0.8 * shifted


def config(kind: str, photos: Path, output: Path, **settings: Any) -> Config:
    run = tables(kind, photos, output, **settings)
    return Config(
        kind,
        MODEL,
        DataConfig(**run["data"]),
        DegradationConfig("raw" if kind == "burst-raw" else "bi"),
        TrainConfig(**run["train"]),
    )


@pytest.mark.parametrize("loss", ["charbonnier", "mse"])
def test_loss_falls_on_one_batch(loss: str, tmp_path: Path, photos: Path) -> None:
    settings = config("image", photos, tmp_path / "a.safetensors", steps=60, learning_rate=5e-3, loss=loss, bf16=False)
    trainer = Trainer(settings)
    batch = trainer.task.sample(np.random.default_rng(0))
    losses = [trainer.update(batch)["loss"] for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    assert trainer.progress == 1.0


def test_a_batch_fits_together(tmp_path: Path, photos: Path) -> None:
    # What is cut off around the patches leaves low and high resolution in place: the cubic enlargement comes close.
    for kind in ("image", "video", "burst"):
        trainer = Trainer(config(kind, photos, tmp_path / "a.safetensors", patch=16))
        batch = trainer.task.sample(np.random.default_rng(0))
        lr, hr = batch["lr"], batch["hr"]
        if kind == "burst":
            assert 2 <= lr.shape[1] <= 3
            lr = lr[:, 0]
        elif kind == "video":
            lr, hr = lr.flatten(0, 1), hr.flatten(0, 1)
        assert lr.shape[-2:] == (16, 16)
        assert hr.shape[-2:] == (32, 32)
        error = (resize(lr, scale=2) - hr)[..., 4:-4, 4:-4].abs().mean().item()
        shifted = (resize(lr, scale=2, phase="corner") - hr)[..., 4:-4, 4:-4].abs().mean().item()
        assert error < 0.5 * shifted


def test_flow_only_trains_the_flow_alone(tmp_path: Path, photos: Path) -> None:
    for kind in ("video", "burst"):
        settings = config(kind, photos, tmp_path / "a.safetensors", flow_only=True, flow_weight=1.0)
        trainer = Trainer(settings)
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        for seed in range(2):
            logs = trainer.update(trainer.task.sample(np.random.default_rng(seed)))
        assert logs["flow_error"] > 0.0
        changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {k for k in before if k.startswith("flow.")}


def test_weights_to_begin_with(tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(5)
    source = build_model("image", MODEL)
    torch.nn.init.normal_(source.upsampler.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    save_model(source, "image", MODEL, tmp_path / "source.safetensors", half=False)
    init = (str(tmp_path / "source.safetensors"),)
    trainer = Trainer(config("video", photos, tmp_path / "a.safetensors", init=init, taken_rate=0.0))
    taken = dict(source.state_dict())
    own = trainer.model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in taken.items())
    assert all(torch.equal(v, own[k]) for k, v in trainer.average.state_dict().items())
    trainer.update(trainer.task.sample(np.random.default_rng(0)))
    own = trainer.model.state_dict()
    assert all(torch.equal(own[k], v) for k, v in taken.items())  # at no rate they stay
    assert own["fuse2.weight"].abs().max().item() > 0.0  # what is new learns


def test_some_blocks_of_a_deeper_network(tmp_path: Path, photos: Path) -> None:
    deep = build_model("image", {**MODEL, "blocks": 4})
    save_model(deep, "image", {**MODEL, "blocks": 4}, tmp_path / "deep.safetensors", half=False)
    settings = config("image", photos, tmp_path / "a.safetensors", init=(str(tmp_path / "deep.safetensors"),))
    settings = dataclasses.replace(
        settings,
        model={**MODEL, "blocks": 2},
        train=dataclasses.replace(settings.train, init_blocks=(0, 3)),
    )
    model = Trainer(settings).model
    for own, theirs in ((model.trunk.blocks[0], deep.trunk.blocks[0]), (model.trunk.blocks[1], deep.trunk.blocks[3])):  # type: ignore[union-attr, index]
        assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(model.head.weight, deep.head.weight)  # type: ignore[union-attr]


def test_weights_to_begin_with_that_do_not_serve(tmp_path: Path, photos: Path) -> None:
    save_model(build_model("image", MODEL), "image", MODEL, tmp_path / "source.safetensors")

    def begun(model: dict[str, Any], **settings: Any) -> Trainer:
        init = (str(tmp_path / "source.safetensors"),)
        made = config("image", photos, tmp_path / "a.safetensors", init=init, **settings)
        return Trainer(dataclasses.replace(made, model=model))

    assert begun(MODEL, init_blocks=(0,)).taken == set(build_model("image", MODEL).state_dict())
    for blocks, block in (((0, 1), 1), ((-1,), -1)):
        with pytest.raises(InputError, match=rf"init_blocks: .*source\.safetensors has 1 blocks and no block {block}"):
            begun(MODEL, init_blocks=blocks)
    with pytest.raises(InputError, match=r"init: no convolution of .*source\.safetensors has the name and shape"):
        begun({"channels": 16, "blocks": 1, "scale": 3})


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_checkpoint_keeps_all(optimizer: str, tmp_path: Path, photos: Path) -> None:
    settings = config("image", photos, tmp_path / "a.safetensors", steps=10, optimizer=optimizer)
    first = Trainer(settings)
    batches = [first.task.sample(np.random.default_rng(seed)) for seed in range(4)]
    for batch in batches[:2]:
        first.update(batch)
    first.seconds = 12.5
    first.save()
    second = Trainer(dataclasses.replace(settings, train=dataclasses.replace(settings.train, seed=9)))
    second.restore()
    assert (second.step, second.seconds) == (2, 12.5)
    for batch in batches[2:]:  # the same from here on, so the optimiser's state came along too
        assert first.update(batch) == second.update(batch)
    for a, b in ((first.model, second.model), (first.average, second.average)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_rates_that_have_changed_hold_from_the_checkpoint_on(tmp_path: Path, photos: Path) -> None:
    Trainer(config("image", photos, tmp_path / "a.safetensors", optimizer="muon")).save()
    second = Trainer(config("image", photos, tmp_path / "a.safetensors", optimizer="muon", muon_rate=9.0))
    second.restore()
    assert [group["rate"] for o in second.optimizers for group in o.param_groups] == [1.0, 9.0]


def test_checkpoints_that_do_not_serve(tmp_path: Path, photos: Path) -> None:
    path = write(tmp_path / "c.toml", **tables("image", photos, tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(path, resume=True)
    checkpoint = tmp_path / "a.checkpoint.pt"
    wide = dataclasses.replace(config("image", photos, tmp_path / "a.safetensors"), model={**MODEL, "channels": 16})
    Trainer(wide).save()
    of_wide = checkpoint.read_bytes()
    Trainer(config("image", photos, tmp_path / "a.safetensors", optimizer="muon")).save()
    contents = [of_wide, checkpoint.read_bytes(), b"", b"nonsense"]
    own = Trainer(config("image", photos, tmp_path / "a.safetensors"))
    own.save()
    whole = checkpoint.read_bytes()
    contents += [whole[:length] for length in range(1, len(whole), len(whole) // 50)]
    for wrong in ({"optimizers": [None]}, {"sums": [1]}, {"step": "two"}):
        torch.save({**torch.load(checkpoint, weights_only=True), **wrong}, tmp_path / "wrong.pt")
        contents.append((tmp_path / "wrong.pt").read_bytes())
    for content in contents:
        checkpoint.write_bytes(content)
        with pytest.raises(InputError, match="not a checkpoint of this configuration") as caught:
            own.restore()
        assert "\n" not in str(caught.value)


def test_a_killed_run_goes_on(tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "mine.safetensors"
    run = tables("image", photos, output, steps=100000, checkpoint_minutes=0.0, threads=1)
    path = write(tmp_path / "c.toml", **run)
    command = f"from pathlib import Path; from msr.train import train; train(Path({str(path)!r}))"
    # Its output goes nowhere: a pipe that nobody reads could block it.
    process = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               cwd=Path(__file__).parents[2])  # fmt: skip
    checkpoint = tmp_path / "mine.checkpoint.pt"
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    reached = torch.load(checkpoint, weights_only=True)["step"]
    assert reached >= 1
    run["train"]["steps"] = reached + 3
    assert train(write(path, **run), resume=True) == output
    assert torch.load(checkpoint, weights_only=True)["step"] == reached + 3
    assert load_model(output).kind == "image"
    log = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert log[-1]["step"] == reached + 3


def test_an_error_in_making_batches_reaches_the_training_thread() -> None:
    class Broken:
        period = 1

        def sample(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
            raise InputError("this photo cannot be read")

    with pytest.raises(InputError, match="this photo cannot be read"):
        next(batches(Broken(), 0))  # type: ignore[arg-type]


def test_no_thread_is_at_work_once_batches_are_closed() -> None:
    # Python ends such a thread when it exits itself, and in the middle of compiled code that aborts the process.
    code = (
        "import cv2, numpy as np, torch\n"
        "from msr.train.batches import batches\n"
        "class Slow:\n"
        "    period = 1\n"
        "    def sample(self, rng):\n"
        "        x = torch.rand(8, 3, 64, 64)\n"
        "        for _ in range(20):\n"
        "            x = torch.nn.functional.conv2d(x, torch.ones(3, 3, 3, 3), padding=1)\n"
        "        return {'x': x}\n"
        "ready = batches(Slow(), 0)\n"
        "next(ready)\n"
        "ready.close()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_bfloat16_only_where_the_device_multiplies_it(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has in (False, True):
        monkeypatch.setattr("msr.train.trainer.multiplies_bfloat16", lambda device, has=has: has)
        trainer = Trainer(config("image", photos, tmp_path / "a.safetensors"))
        made: list[torch.Tensor] = []
        trainer.model.head.register_forward_hook(lambda module, inputs, output, made=made: made.append(output))
        trainer.update(trainer.task.sample(np.random.default_rng(0)))
        assert [x.dtype for x in made] == [torch.bfloat16 if has else torch.float32]


def test_time_limits_training_too(tmp_path: Path, photos: Path) -> None:
    trainer = Trainer(config("image", photos, tmp_path / "a.safetensors", steps=100, minutes=2.0))
    trainer.step, trainer.seconds = 10, 60.0
    assert trainer.progress == 0.5
    trainer.step, trainer.seconds = 80, 60.0
    assert trainer.progress == 0.8
