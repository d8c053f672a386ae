"""The training loop: one configuration in, weights out, through any interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from msr.errors import InputError, WorkError
from msr.io.output import whole
from msr.models import save_model
from msr.train.batches import batches
from msr.train.config import load_config
from msr.train.interrupt import Interrupt
from msr.train.record import Record
from msr.train.trainer import Trainer


def train(config: Path, *, resume: bool = False) -> Path:
    """Train a model as a configuration file says.

    Beside the weights go a checkpoint, a log (one JSON object a line) and a validation picture. The same configuration
    gives the same losses and weights each time on a CPU, unless ``minutes`` lets the clock decide; a run that was
    killed and goes on gives those of one that was not. An interrupt ends it after the step that it is at, with a
    checkpoint; a second one ends it at once. Started by torchrun, all processes train one model.

    Args:
        config: the TOML file (see `msr.train.config`).
        resume: go on from the checkpoint beside the output.

    Returns:
        The path of the weights.

    Raises:
        InputError: the configuration or its data cannot be used; an earlier run left a checkpoint, and ``resume`` is
            not set.
        WorkError: the loss does not stay finite, or a file cannot be written.

    Example:
        >>> train(Path("image.toml"))    # doctest: +SKIP
        PosixPath('image-x4.safetensors')
    """
    settings = load_config(config)
    output = Path(settings.train.output)
    _check_places(output, resume)
    trainer = Trainer(settings)
    if resume:
        trainer.restore()
    try:
        if trainer.ranks.rank:
            _Run(trainer, None).go()
        else:
            record = Record(output, settings.train.tensorboard, trainer.step)
            _Run(trainer, record).go()
            _finish(trainer, record)
            record.close()
    finally:
        trainer.ranks.leave()
    return output


def _check_places(output: Path, resume: bool) -> None:
    """Refuse an output whose files could not be written, or would take the place of an earlier run's."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output.parent}: cannot be made: {error.strerror}") from error
    try:
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise InputError(f"{output.parent}: cannot be written to: {error.strerror}") from error
    checkpoint = output.with_suffix(".checkpoint.pt")
    for path in (output, checkpoint, output.with_suffix(".jsonl")):
        if path.is_dir():
            raise InputError(f"{path} is a folder: training writes a file of this name")
    if checkpoint.exists() and not resume:
        raise InputError(f"{checkpoint} is of an earlier run: go on with --resume, or remove it to begin anew")


class _Run:
    """The steps of a run, its clock and its log; only the first process (``record``) saves and says something."""

    def __init__(self, trainer: Trainer, record: Record | None) -> None:
        self.trainer, self.record = trainer, record
        self.waited = self.spent = 0.0  # seconds since the last line of the log
        self.torn = False  # stopped in the middle of changing the weights

    def go(self) -> None:
        """All steps that are left.

        Raises:
            KeyboardInterrupt: the run was interrupted; like the errors, it says where ``--resume`` goes on.
        """
        first = self.trainer.step
        try:
            self._steps()
        except (KeyboardInterrupt, InputError, WorkError) as stopped:
            if self.record is None:
                raise
            raise type(stopped)("; ".join([*map(str, stopped.args), self._keep(first)])) from stopped

    def _keep(self, first: int) -> str:
        """Save what was learnt since step ``first``, where it is sound; says from where the run can go on."""
        trainer = self.trainer
        if trainer.sound and not self.torn and trainer.step > first:
            with contextlib.suppress(WorkError):
                trainer.save()
                return f"--resume goes on from step {trainer.step}"
        return "--resume goes on from the last checkpoint" if trainer.checkpoint.exists() else "nothing was saved"

    def _steps(self) -> None:
        trainer, settings = self.trainer, self.trainer.config.train
        last_save = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=self.record is None) as bar, contextlib.ExitStack() as stack:
            row = bar.add_task("training", total=1000)
            soon = "stopping after this step (at once if interrupted again)"
            interrupt = stack.enter_context(Interrupt(lambda: bar.update(row, description=soon)))
            trainer.enter_stage()
            ready = batches(trainer.task, settings.seed, trainer.step, trainer.ranks.rank)
            try:
                while trainer.progress < 1.0:
                    if trainer.enter_stage():
                        ready.close()
                        ready = batches(trainer.task, settings.seed, trainer.step, trainer.ranks.rank)
                    logs = self._step(ready)
                    if self.record is not None:
                        self._note(self.record, logs)
                        if trainer.sound and time.monotonic() - last_save > 60.0 * settings.checkpoint_minutes:
                            trainer.save()
                            last_save = time.monotonic()
                        said = f"step {trainer.step} loss {logs['loss']:.4f}, waiting for data {self.waiting:.0%}"
                        bar.update(row, completed=int(1000 * trainer.progress), description=said)
                    if trainer.ranks.agree(interrupt.came):
                        raise KeyboardInterrupt
            finally:
                ready.close()

    def _step(self, ready: Iterator[dict[str, Tensor]]) -> dict[str, float]:
        trainer = self.trainer
        start = time.monotonic()
        batch = next(ready)
        self.waited += time.monotonic() - start
        self.torn = True
        logs = trainer.update(batch)
        self.torn = False
        self.spent += time.monotonic() - start
        trainer.seconds = trainer.ranks.agree(trainer.seconds + time.monotonic() - start)
        return logs

    @property
    def waiting(self) -> float:
        """The share of the time in which the network had no data."""
        return self.waited / max(self.spent, 1e-9)

    def _note(self, record: Record, logs: dict[str, float]) -> None:
        trainer, settings = self.trainer, self.trainer.config.train
        for key, value in logs.items():
            finite = math.isfinite(value)
            trainer.sums.setdefault(key if finite else "skipped", []).append(value if finite else 1.0)
        if trainer.step % settings.log_every == 0:
            record.note(trainer.step, {**_means(trainer), "waiting": round(self.waiting, 3)})
            trainer.sums, self.waited, self.spent = {}, 0.0, 0.0
        if trainer.config.data.validation and trainer.step % settings.validate_every == 0:
            figure, picture = trainer.validate()
            record.note(trainer.step, {"validation": round(figure, 4)})
            record.picture(trainer.step, picture)


def _means(trainer: Trainer) -> dict[str, float]:
    """A line of the log: the clock, the means since the last line, and how many steps had no finite loss."""
    sums = dict(trainer.sums)
    skipped = len(sums.pop("skipped", []))
    means = {"minutes": round(trainer.seconds / 60, 2), **{k: round(float(np.mean(v)), 6) for k, v in sums.items()}}
    return means | ({"skipped": skipped} if skipped else {})


def _finish(trainer: Trainer, record: Record) -> None:
    """The weights, the last line of the log and checkpoint, the weights' card."""
    settings = trainer.config
    save_model(trainer.average, settings.kind, settings.model, trainer.output)
    if trainer.sums:
        record.note(trainer.step, _means(trainer))
        trainer.sums = {}
    trainer.save()
    figures = {}
    if settings.data.validation:
        figure, picture = trainer.validate()
        figures[f"validation {trainer.task.measure}, dB"] = round(figure, 2)
        record.picture(trainer.step, picture)
        record.note(trainer.step, {"minutes": round(trainer.seconds / 60, 2), **figures, "final": True})
    card = json.dumps(dataclasses.asdict(trainer.card(figures)), indent=1)
    with whole(trainer.output.with_suffix(".json")) as part:
        part.write_text(card + "\n")
