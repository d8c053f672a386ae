"""Training runs that repeat, go on after a kill as if nothing had been, and stop where nothing can be learnt."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import photo_folder
from test_training import check_results, config, tables, write

from msr.errors import InputError, WorkError
from msr.models import load_model
from msr.train import train
from msr.train.batches import batches
from msr.train.config import Config
from msr.train.loop import _Run
from msr.train.record import Record
from msr.train.trainer import Trainer

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="sums on a GPU may run in any order")

ROOT = Path(__file__).parents[2]


def curve(output: Path) -> list[dict[str, Any]]:
    """The log, without what the clock says."""
    lines = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("minutes", "waiting")} for line in lines]


def weights_of(output: Path) -> list[torch.Tensor]:
    return list(load_model(output).state_dict().values())


@pytest.mark.parametrize(("kind", "bf16"), [("image", True), ("video", False)])
def test_two_runs_are_one(kind: str, bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msr.train.trainer.multiplies_bfloat16", lambda device: True)  # on any processor
    photos = photo_folder(tmp_path / "photos", 2, 96)
    outputs = []
    for name in ("first", "second"):
        run = tables(kind, photos, tmp_path / f"{name}.safetensors", steps=4, log_every=1, bf16=bf16)
        outputs.append(train(write(tmp_path / "c.toml", **run)))
    first, second = (curve(output) for output in outputs)
    assert [entry["step"] for entry in first] == [1, 2, 3, 4]
    assert len({entry["loss"] for entry in first}) == 4
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(*map(weights_of, outputs), strict=True))
    other = tables(kind, photos, tmp_path / "third.safetensors", steps=4, log_every=1, bf16=bf16, seed=1)
    assert curve(train(write(tmp_path / "c.toml", **other))) != first


@pytest.mark.parametrize("kind", ["image", "burst"])
def test_a_killed_run_gives_the_curve_of_the_unbroken_one(kind: str, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos", 2, 96)
    more = {"steps": 8, "log_every": 3, "bf16": False, "stages": [[0.5, 6, 2]], "validate_every": 4, "threads": 1}
    if kind == "burst":
        more |= {"flow_weight": 0.1, "flow_share": 0.4}

    def described(name: str) -> Path:
        run = tables(kind, photos, tmp_path / f"{name}.safetensors", **more)
        run["degradation"] = {"name": "box" if kind == "burst" else "bi"}
        run["data"]["validation"] = str(photos)
        return write(tmp_path / f"{name}.toml", **run)

    whole = train(described("whole"))
    # Killed after step 7 without a word; the last checkpoint is that of step 5.
    command = """
import os, sys
from pathlib import Path
from msr.train.loop import train
from msr.train.trainer import Trainer
step, save = Trainer.update, Trainer.save
def update(self, batch):
    if self.step == 5:
        save(self)
    if self.step == 7:
        os._exit(9)
    return step(self, batch)
Trainer.update = update
train(Path(sys.argv[1]))
"""
    killed = subprocess.run([sys.executable, "-c", command, str(described("broken"))], cwd=ROOT, capture_output=True)
    assert killed.returncode == 9, killed.stderr
    output = tmp_path / "broken.safetensors"
    assert not output.exists()
    assert curve(output)[-1]["step"] == 6  # noted once more by the run that goes on
    train(tmp_path / "broken.toml", resume=True)
    assert [entry["step"] for entry in curve(whole)] == [3, 4, 6, 8, 8, 8]
    assert curve(output) == curve(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(output), weights_of(whole), strict=True))


def test_a_batch_is_that_of_its_step(tmp_path: Path) -> None:
    class Rounds:
        """Makes two batches at once, as the RAW bursts do."""

        period = 2
        left: list[float]

        def sample(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
            if not getattr(self, "left", []):
                self.left = [float(rng.random()), float(rng.random())]
            return {"x": torch.tensor(self.left.pop(0))}

    whole = batches(Rounds(), 3)  # type: ignore[arg-type]
    values = [float(next(whole)["x"]) for _ in range(6)]
    assert len(set(values)) == 6
    for first in (1, 2, 3):
        later = batches(Rounds(), 3, first)  # type: ignore[arg-type]
        assert [float(next(later)["x"]) for _ in range(3)] == values[first : first + 3]
    assert float(next(batches(Rounds(), 3, rank=1))["x"]) not in values  # type: ignore[arg-type]


def trainer_of(tmp_path: Path, **settings: Any) -> tuple[Trainer, Config]:
    made = config("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors", **settings)
    return Trainer(made), made


def test_steps_without_a_finite_loss_change_nothing_and_then_end_the_run(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, steps=1000, log_every=4)
    good = trainer.task.sample(np.random.default_rng(0))
    trainer.update(good)
    before = [p.clone() for p in trainer.model.parameters()]
    bad = {**good, "hr": torch.full_like(good["hr"], float("nan"))}
    for _ in range(19):
        assert np.isnan(trainer.update(bad)["loss"])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    trainer.update(good)  # one that is finite, and the count begins anew
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    for _ in range(19):
        trainer.update(bad)
    with pytest.raises(WorkError, match="has not been finite since step 21") as caught:
        trainer.update(bad)
    assert "\n" not in str(caught.value)


def test_the_log_counts_skipped_steps_and_stays_json(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, steps=3, log_every=3)
    sample = trainer.task.sample

    def sometimes(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        batch = sample(rng)
        return {**batch, "hr": batch["hr"] * float("nan")} if rng.random() < 0.5 else batch

    trainer.task.sample = sometimes  # type: ignore[method-assign]
    _Run(trainer, Record(trainer.output, False, 0)).go()
    (entry,) = (json.loads(line) for line in trainer.output.with_suffix(".jsonl").read_text().splitlines())
    draws = [np.random.default_rng((0, 0, step)) for step in range(3)]
    wrong = 0
    for rng in draws:
        sample(rng)
        wrong += rng.random() < 0.5
    assert 0 < wrong < 3
    assert entry["skipped"] == wrong
    assert np.isfinite(entry["loss"])
    assert 0.0 <= entry["waiting"] <= 1.0


def test_gradients_are_clipped_and_the_average_follows(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, ema=0.5, bf16=False)
    batch = trainer.task.sample(np.random.default_rng(0))
    batch["hr"] = batch["hr"] + 1000.0
    for decay in (1 / 10, 2 / 11):
        before = [p.clone() for p in trainer.average.parameters()]
        trainer.update(batch)
        for old, mean, value in zip(before, trainer.average.parameters(), trainer.model.parameters(), strict=True):
            torch.testing.assert_close(mean, old * decay + value * (1 - decay), rtol=1e-5, atol=1e-7)
    norm = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert 0.0 < norm <= 1.0001


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "mine.safetensors"
    photos = photo_folder(tmp_path / "photos", 2, 96)
    run = tables("image", photos, output, log_every=1, tensorboard=True)
    run["data"]["validation"] = str(photos)
    train(write(tmp_path / "c.toml", **run))
    check_results(output, "image", (96, 96))
    events = EventAccumulator(str(output.with_suffix(".tensorboard")))
    events.Reload()
    noted = [entry for entry in curve(output) if "loss" in entry]
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [
        (entry["step"], round(entry["loss"], 4)) for entry in noted
    ]
    assert events.Images("validation")[-1].step == 2


def test_tensorboard_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tables("image", photo_folder(tmp_path / "photos"), tmp_path / "mine.safetensors", tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match="tensorboard needs the package tensorboard"):
        train(write(tmp_path / "c.toml", **run))


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    # What torchrun would start: gradients averaged over both batches, one log, one file of weights.
    photos = photo_folder(tmp_path / "photos", 2, 96)
    path = write(tmp_path / "c.toml", **tables("image", photos, tmp_path / "two.safetensors", bf16=False, threads=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = f"from pathlib import Path; from msr.train import train; train(Path({str(path)!r}))"
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", command], cwd=ROOT, env={**os.environ, **world, "RANK": str(rank)},
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)  # where one has failed the other waits for it
        said = [process.communicate(timeout=200)[1] for process in processes]
    assert said == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(curve(tmp_path / "two.safetensors")) == 1
    # By hand in one process: each step's gradient is the mean of those of the two batches.
    trainer, _ = trainer_of(tmp_path / "alone", bf16=False, threads=1)
    trainer.task = Trainer(config("image", photos, tmp_path / "b.safetensors")).task
    streams = [batches(trainer.task, 0, 0, rank) for rank in range(2)]
    for _ in range(2):
        pair = [next(stream) for stream in streams]
        trainer.update({key: torch.cat([batch[key] for batch in pair]) for key in pair[0]})
    for alone, together in zip(trainer.average.parameters(), weights_of(tmp_path / "two.safetensors"), strict=True):
        torch.testing.assert_close(alone.half().float(), together.float(), rtol=2e-3, atol=2e-4)
