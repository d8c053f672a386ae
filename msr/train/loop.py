"""The training loop: one configuration in, weights out, through any interruption."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from msr.errors import InputError
from msr.models import ModelCard, build_model, load_model, save_model
from msr.train.config import Config, TrainConfig, load_config
from msr.train.tasks import Task, make_task


def _batches(task: Task, seed: int) -> Iterator[dict[str, Tensor]]:
    """Endless batches, made by a thread while the network works."""
    rng = np.random.default_rng(seed)
    ready: queue.Queue[dict[str, Tensor] | BaseException] = queue.Queue(maxsize=4)
    stop = threading.Event()

    def put(item: dict[str, Tensor] | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.5)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                put(task.sample(rng))
        except BaseException as error:  # carried over to the training thread
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


def _learning_rate(progress: float, step: int, config: TrainConfig) -> float:
    """A short linear warm-up, then half a cosine down to nearly nothing."""
    warm_up = min(1.0, (step + 1) / 100)
    return config.learning_rate * warm_up * max(0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))), 1e-3)


def _take_over(model: nn.Module, init: str) -> set[str]:
    """Copy the tensors of the same name and shape from other weights; returns their names."""
    source = load_model(init).state_dict()
    own = model.state_dict()
    taken = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(taken, strict=False)
    return set(taken)


class Trainer:
    """The state of one training run: model, average, optimiser, and how far it is."""

    def __init__(self, config: Config) -> None:
        self.config = config
        settings = config.train
        torch.manual_seed(settings.seed)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.output = Path(settings.output)
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.output.parent}: cannot be made: {error.strerror}") from error
        self.checkpoint = self.output.with_suffix(".checkpoint.pt")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self.model = build_model(config.kind, config.model)
            taken = set().union(*(_take_over(self.model, source) for source in settings.init))
            self.average = build_model(config.kind, config.model)
        except ValueError as error:
            raise InputError(f"[model]: {error}") from error
        for m in (self.model, self.average):
            m.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False).eval()
        self.task = make_task(config, int(self.model.scale))  # type: ignore[arg-type]
        named = [(k, p) for k, p in self.model.named_parameters() if not settings.flow_only or k.startswith("flow.")]
        groups = [
            {"params": [p for k, p in named if k not in taken], "rate": 1.0},
            {"params": [p for k, p in named if k in taken], "rate": settings.taken_rate},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=settings.learning_rate, betas=(0.9, 0.99))
        self.step = 0
        self.seconds = 0.0

    def save(self) -> None:
        """Write a checkpoint beside the output, whole or not at all."""
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
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
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise InputError(f"{self.checkpoint}: not a checkpoint of this configuration") from error

    @property
    def progress(self) -> float:
        settings = self.config.train
        done = self.step / settings.steps
        return max(done, self.seconds / (60.0 * settings.minutes)) if settings.minutes else done

    def update(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One optimisation step; returns what to log."""
        settings = self.config.train
        rate = _learning_rate(self.progress, self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        batch = {k: v.to(self.device) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16):
            loss, logs = self.task.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
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

    def validate(self) -> float:
        """The averaged model's figure on the validation pictures; a before/after picture goes beside the output."""
        with torch.inference_mode():
            figure, picture = self.task.validate(self.average, self.device)
        cv2.imwrite(str(self.output.with_suffix(".png")), picture[..., ::-1])
        return figure


def train(config: Path, *, resume: bool = False) -> Path:
    """Train a model as a configuration file says.

    Beside the weights go a checkpoint, a log (one JSON object a line) and a validation picture.

    Args:
        config: the TOML file (see `msr.train.config`).
        resume: go on from the checkpoint beside the output.

    Returns:
        The path of the weights.

    Raises:
        InputError: the configuration or its data cannot be used.
    """
    settings = load_config(config)
    trainer = Trainer(settings)
    if resume:
        trainer.restore()
    log = trainer.output.with_suffix(".jsonl")

    def note(entry: dict[str, Any]) -> None:
        with log.open("a") as file:
            file.write(json.dumps({"step": trainer.step, "minutes": round(trainer.seconds / 60, 2), **entry}) + "\n")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    batches = _batches(trainer.task, settings.train.seed + trainer.step)
    last_save = time.monotonic()
    sums: dict[str, list[float]] = {}
    with Progress(*columns) as bar:
        row = bar.add_task("training", total=1000)
        while trainer.progress < 1.0:
            start = time.monotonic()
            logs = trainer.update(next(batches))
            trainer.seconds += time.monotonic() - start
            for key, value in logs.items():
                sums.setdefault(key, []).append(value)
            if trainer.step % 100 == 0:
                note({k: round(float(np.mean(v)), 6) for k, v in sums.items()})
                sums = {}
            if settings.data.validation and trainer.step % settings.train.validate_every == 0:
                note({"validation": round(trainer.validate(), 4)})
            if time.monotonic() - last_save > 60.0 * settings.train.checkpoint_minutes:
                trainer.save()
                last_save = time.monotonic()
            bar.update(
                row, completed=int(1000 * trainer.progress), description=f"step {trainer.step} loss {logs['loss']:.4f}"
            )
    if sums:
        note({k: round(float(np.mean(v)), 6) for k, v in sums.items()})
    trainer.save()
    save_model(trainer.average, settings.kind, settings.model, trainer.output)
    figures = {}
    if settings.data.validation:
        figures[f"validation {trainer.task.measure}, dB"] = round(trainer.validate(), 2)
        note({**figures, "final": True})
    card = json.dumps(dataclasses.asdict(trainer.card(figures)), indent=1)
    trainer.output.with_suffix(".json").write_text(card + "\n")
    return trainer.output
