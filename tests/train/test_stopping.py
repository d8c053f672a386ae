"""Runs that are stopped: by an interrupt, by data that cannot be read, by a disk that takes no more."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import photo_folder
from test_repeatable import ROOT, curve, weights_of
from test_training import config, tables, write

from msr.errors import InputError, WorkError
from msr.models import load_model
from msr.train import train
from msr.train.loop import _Run
from msr.train.record import Record
from msr.train.trainer import Trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_learnt(number: signal.Signals, tmp_path: Path) -> None:
    output, photos = tmp_path / "mine.safetensors", photo_folder(tmp_path / "photos", 2, 96)
    path = write(tmp_path / "c.toml", **tables("image", photos, output, steps=100000, log_every=1, threads=1))
    # A shell that starts it in the background would have it ignore SIGINT.
    command = "import signal, sys, msr.cli as cli; signal.signal(2, signal.default_int_handler); sys.exit(cli.main())"
    process = subprocess.Popen([sys.executable, "-c", command, "train", str(path)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while not output.with_suffix(".jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    reached = torch.load(tmp_path / "mine.checkpoint.pt", weights_only=True)["step"]
    assert said == f"msr: interrupted; --resume goes on from step {reached}\n"
    assert curve(output)[-1]["step"] == reached >= 1


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGINT as it is in a terminal: a shell that starts the tests in the background would have them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_a_second_interrupt_stops_within_the_step(tmp_path: Path) -> None:
    trainer = Trainer(config("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors"))

    def slow(batch: dict[str, torch.Tensor]) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    trainer.step, trainer.update = 1, slow  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        _Run(trainer, Record(trainer.output, False, 0)).go()
    assert not trainer.checkpoint.exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_damaged_photo_costs_nothing_that_was_learnt(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos", 2, 96)
    more = {"steps": 6, "batch": 1, "seed": 11, "log_every": 1, "bf16": False, "threads": 1}  # draws 0, 0, 0, 1, 0, 1
    whole = train(write(tmp_path / "c.toml", **tables("image", photos, tmp_path / "whole.safetensors", **more)))
    path = write(tmp_path / "c.toml", **tables("image", photos, tmp_path / "mine.safetensors", **more))
    data = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"1\.png is damaged.*; --resume goes on from step 3$"):
        train(path)
    (photos / "1.png").write_bytes(data)
    output = train(path, resume=True)
    assert curve(output) == curve(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(output), weights_of(whole), strict=True))


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    settings = config("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors", steps=1000,
                      checkpoint_minutes=0.0)  # fmt: skip
    trainer = Trainer(settings)
    sample = trainer.task.sample
    made: list[int] = []

    def soon_wrong(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        made.append(1)
        batch = sample(rng)
        return {**batch, "hr": batch["hr"] * float("nan")} if len(made) > 2 else batch

    trainer.task.sample = soon_wrong  # type: ignore[method-assign]
    with pytest.raises(WorkError, match=r"not been finite since step 2; .*; --resume goes on from the last checkpoint"):
        _Run(trainer, Record(trainer.output, False, 0)).go()
    assert torch.load(trainer.checkpoint, weights_only=True)["step"] == 2


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Files end after so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 20000])
def test_a_full_disk(room: int, tmp_path: Path) -> None:
    trainer = Trainer(config("image", photo_folder(tmp_path / "photos"), tmp_path / "out" / "a.safetensors"))
    trainer.output.parent.mkdir()
    trainer.save()
    before = trainer.checkpoint.read_bytes()
    record = Record(trainer.output, False, 0)
    with full_disk(room):
        with pytest.raises(WorkError, match=r"cannot write .*a\.checkpoint\.pt") as caught:
            trainer.save()
        if not room:
            with pytest.raises(WorkError, match=r"cannot write .*a\.jsonl"):
                record.note(1, {"loss": 0.1})
    assert "\n" not in str(caught.value)
    assert trainer.checkpoint.read_bytes() == before
    assert {path.name for path in trainer.output.parent.iterdir()} <= {"a.checkpoint.pt", "a.jsonl"}


def test_weights_come_before_the_checkpoint_that_a_full_disk_refuses(tmp_path: Path) -> None:
    run = tables("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors", steps=1)
    with full_disk(20000), pytest.raises(WorkError, match=r"a\.checkpoint\.pt"):
        train(write(tmp_path / "c.toml", **run))
    assert load_model(tmp_path / "a.safetensors").kind == "image"


def test_places_that_do_not_serve(tmp_path: Path) -> None:
    def refusal(output: Path, **options: Any) -> str:
        with pytest.raises(InputError) as caught:
            train(write(tmp_path / "c.toml", **tables("image", tmp_path / "none", output)), **options)
        return str(caught.value)

    assert "cannot be written to" in refusal(Path("/proc/a.safetensors"))
    (tmp_path / "a.safetensors").mkdir()
    assert "a.safetensors is a folder" in refusal(tmp_path / "a.safetensors")
    (tmp_path / "b.checkpoint.pt").mkdir()
    assert "b.checkpoint.pt is a folder" in refusal(tmp_path / "b.safetensors", resume=True)
    (tmp_path / "c.checkpoint.pt").write_bytes(b"of weeks of work")
    said = refusal(tmp_path / "c.safetensors")
    assert "c.checkpoint.pt is of an earlier run: go on with --resume, or remove it" in said


def test_what_has_ended_and_goes_on_ends_once(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos", 2, 96)
    run = tables("image", photos, tmp_path / "a.safetensors", steps=3, log_every=2)
    run["data"]["validation"] = str(photos)
    path = write(tmp_path / "c.toml", **run)
    ended = curve(train(path))
    assert [entry["step"] for entry in ended] == [2, 3, 3]
    assert curve(train(path, resume=True)) == ended
