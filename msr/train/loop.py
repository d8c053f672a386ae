"""The training loop: one configuration in, weights out, through any interruption."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from msr.errors import InputError, WorkError
from msr.models import ModelCard, build_model, save_model
from msr.ops._processor import multiplies_bfloat16
from msr.train.batches import batches
from msr.train.config import Config, TrainConfig, load_config
from msr.train.inheritance import load_teacher, take_over
from msr.train.optimizer import OptimizerName, make_optimizers
from msr.train.ranks import Ranks
from msr.train.record import Record
from msr.train.tasks import make_task

#: So many steps in a row without a finite gradient end a run: it will not come back by itself.
_PATIENCE = 20


def _learning_rate(progress: float, step: int, config: TrainConfig) -> float:
    """A short linear warm-up, then half a cosine down to nearly nothing."""
    warm_up = min(1.0, (step + 1) / 100)
    return config.learning_rate * warm_up * max(0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))), 1e-3)


class Trainer:
    """The state of one training run: model, average, optimiser, and how far it is."""

    def __init__(self, config: Config) -> None:
        self.config = config
        settings = config.train
        torch.manual_seed(settings.seed)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.output = Path(settings.output)
        self.checkpoint = self.output.with_suffix(".checkpoint.pt")
        self.ranks = Ranks.join()
        self.device = self.ranks.device
        self.bf16 = settings.bf16 and multiplies_bfloat16(self.device)
        try:
            self.model = build_model(config.kind, config.model)
            taken = set().union(*(take_over(self.model, source, settings.init_blocks) for source in settings.init))
            self.average = build_model(config.kind, config.model)
        except ValueError as error:
            raise InputError(f"[model]: {error}") from error
        self.teacher = load_teacher(settings.teacher, self.model)
        for m in filter(None, (self.model, self.average, self.teacher)):
            m.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False).eval()
        self.stage = config.at(0)
        self.task = make_task(self.stage, int(self.model.scale))  # type: ignore[arg-type]
        named = [(k, p) for k, p in self.model.named_parameters() if not settings.flow_only or k.startswith("flow.")]
        self.optimizers = make_optimizers(
            named, taken, cast(OptimizerName, settings.optimizer), settings.taken_rate, settings.muon_rate
        )
        self.step = 0
        self.seconds = 0.0
        self.sums: dict[str, list[float]] = {}  # what the next line of the log is the mean of
        self._failed = 0

    def save(self) -> None:
        """Write a checkpoint beside the output, whole or not at all."""
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "step": self.step,
                "seconds": self.seconds,
                "sums": self.sums,
            },
            temporary,
        )
        temporary.replace(self.checkpoint)

    def restore(self) -> None:
        """Go on from the checkpoint beside the output."""
        if not self.checkpoint.is_file():
            raise InputError(f"{self.checkpoint}: no checkpoint to resume from")
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.sums = state.get("sums", {})
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f"{self.checkpoint}: not a checkpoint of this configuration") from error
        self.task.begin(self.step)

    def enter_stage(self) -> bool:
        """Take up the patch and clip length of the present step; whether they are new."""
        stage = self.config.at(self.step)
        if stage == self.stage:
            return False
        self.stage = stage
        self.task = make_task(stage, int(self.model.scale))  # type: ignore[arg-type]
        self.task.begin(self.step)
        return True

    @property
    def progress(self) -> float:
        settings = self.config.train
        done = self.step / settings.steps
        return max(done, self.seconds / (60.0 * settings.minutes)) if settings.minutes else done

    def update(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimisation step; returns what to log. Where the gradient is not finite, the weights stay as they are.

        Raises:
            WorkError: it has not been finite for many steps.
        """
        settings = self.config.train
        rate = _learning_rate(self.progress, self.step, settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
        batch = {k: v.to(self.device) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.teacher is not None and not settings.flow_only:
                with torch.no_grad():
                    batch["taught"] = self.teacher(batch["lr"])
            loss, logs = self.task.loss(self.model, batch)
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average(self.model.parameters())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self._failed = 0
        else:
            self._failed += 1
            if self._failed == _PATIENCE:
                raise WorkError(
                    f"{self.output}: the loss has not been finite since step {self.step - _PATIENCE + 1}; "
                    f"try a lower learning_rate, from the last checkpoint"
                )
        decay = min(settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
        self.step += 1
        return {"loss": float(loss.detach()), "learning_rate": rate, **logs}

    def card(self, figures: dict[str, float]) -> ModelCard:
        """What to say of the weights as they are now."""
        config = self.config
        return ModelCard(
            name=self.output.stem,
            kind=config.kind,
            scale=int(self.model.scale),  # type: ignore[arg-type]
            phase=str(self.model.phase),
            parameters=sum(p.numel() for p in self.model.parameters()),
            degradation=config.degradation.name,
            data=config.data.description,
            steps=self.step,
            figures=figures,
            license="Apache-2.0",
        )

    def validate(self) -> tuple[float, np.ndarray]:
        """The averaged model's figure on the validation pictures, and the picture left beside the output."""
        with torch.inference_mode():
            figure, picture = self.task.validate(self.average, self.device)
        cv2.imwrite(str(self.output.with_suffix(".png")), picture[..., ::-1])
        return figure, picture


def train(config: Path, *, resume: bool = False) -> Path:
    """Train a model as a configuration file says.

    Beside the weights go a checkpoint, a log (one JSON object a line) and a validation picture. The same configuration
    gives the same losses and weights each time on a CPU, unless ``minutes`` lets the clock decide; a run that was
    killed and goes on gives those of one that was not. Started by torchrun, all processes train one model.

    Args:
        config: the TOML file (see `msr.train.config`).
        resume: go on from the checkpoint beside the output.

    Returns:
        The path of the weights.

    Raises:
        InputError: the configuration or its data cannot be used.
        WorkError: the loss does not stay finite.

    Example:
        >>> train(Path("image.toml"))    # doctest: +SKIP
        PosixPath('image-x4.safetensors')
    """
    settings = load_config(config)
    output = Path(settings.train.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output.parent}: cannot be made: {error.strerror}") from error
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


class _Run:
    """The steps of a run, its clock and its log; only the first process (``record``) saves and says something."""

    def __init__(self, trainer: Trainer, record: Record | None) -> None:
        self.trainer, self.record = trainer, record
        self.waited = self.spent = 0.0  # seconds since the last line of the log

    def go(self) -> None:
        trainer, settings = self.trainer, self.trainer.config.train
        last_save = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=self.record is None) as bar:
            row = bar.add_task("training", total=1000)
            trainer.enter_stage()
            ready = batches(trainer.task, settings.seed, trainer.step, trainer.ranks.rank)
            try:
                while trainer.progress < 1.0:
                    if trainer.enter_stage():
                        ready.close()
                        ready = batches(trainer.task, settings.seed, trainer.step, trainer.ranks.rank)
                    logs = self._step(ready)
                    if self.record is None:
                        continue
                    self._note(self.record, logs)
                    if time.monotonic() - last_save > 60.0 * settings.checkpoint_minutes:
                        trainer.save()
                        last_save = time.monotonic()
                    said = f"step {trainer.step} loss {logs['loss']:.4f}, waiting for data {self.waiting:.0%}"
                    bar.update(row, completed=int(1000 * trainer.progress), description=said)
            finally:
                ready.close()

    def _step(self, ready: Iterator[dict[str, Tensor]]) -> dict[str, float]:
        trainer = self.trainer
        start = time.monotonic()
        batch = next(ready)
        self.waited += time.monotonic() - start
        logs = trainer.update(batch)
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
    """The last checkpoint and line of the log, the weights, their card."""
    trainer.save()
    if trainer.sums:
        record.note(trainer.step, _means(trainer))
    settings = trainer.config
    save_model(trainer.average, settings.kind, settings.model, trainer.output)
    figures = {}
    if settings.data.validation:
        figure, picture = trainer.validate()
        figures[f"validation {trainer.task.measure}, dB"] = round(figure, 2)
        record.picture(trainer.step, picture)
        record.note(trainer.step, {"minutes": round(trainer.seconds / 60, 2), **figures, "final": True})
    card = json.dumps(dataclasses.asdict(trainer.card(figures)), indent=1)
    trainer.output.with_suffix(".json").write_text(card + "\n")
