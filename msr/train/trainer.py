"""The state of a training run, one step of it, its checkpoint and its validation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from msr.errors import InputError, WorkError
from msr.io.image import write_image
from msr.io.output import whole
from msr.models import ModelCard, build_model
from msr.ops._processor import multiplies_bfloat16
from msr.pipelines.tiling import out_of_memory
from msr.train.config import Config, TrainConfig
from msr.train.inheritance import load_teacher, take_over
from msr.train.optimizer import OptimizerName, make_optimizers
from msr.train.ranks import Ranks
from msr.train.record import check_tensorboard
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
        if settings.tensorboard:
            check_tensorboard()
        self.output = Path(settings.output)
        self.checkpoint = self.output.with_suffix(".checkpoint.pt")
        self.ranks = Ranks.join()
        self.device = self.ranks.device
        self.bf16 = settings.bf16 and multiplies_bfloat16(self.device)
        try:
            self.model = build_model(config.kind, config.model)
            self.taken = set().union(*(take_over(self.model, source, settings.init_blocks) for source in settings.init))
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
            named, self.taken, cast(OptimizerName, settings.optimizer), settings.taken_rate, settings.muon_rate
        )
        self.step = 0
        self.seconds = 0.0
        self.sums: dict[str, list[float]] = {}  # what the next line of the log is the mean of
        self._failed = 0

    def save(self) -> None:
        """Write a checkpoint beside the output, whole or not at all.

        Raises:
            WorkError: it cannot be written.
        """
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "sums": self.sums,
        }
        try:
            with whole(self.checkpoint) as part:
                torch.save(state, part)
        except RuntimeError as error:  # what torch makes of a full disk
            raise WorkError(f"cannot write {self.checkpoint}: {str(error).splitlines()[0]}") from error

    def restore(self) -> None:
        """Go on from the checkpoint beside the output, at the rates of this configuration.

        Raises:
            InputError: there is none, or it is of another configuration or damaged.
        """
        if not self.checkpoint.is_file():
            raise InputError(f"{self.checkpoint}: no checkpoint to resume from")
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                rates = [group["rate"] for group in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["rate"] = rate
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.sums = {str(k): [float(v) for v in values] for k, values in state.get("sums", {}).items()}
        except Exception as error:  # whatever a damaged file makes of the reading
            if out_of_memory(error):
                raise
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
    def sound(self) -> bool:
        """Whether the last step was finite: what fails is no place to go on from."""
        return self._failed == 0

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
                    f"try a lower learning_rate"
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
        write_image(self.output.with_suffix(".validation.png"), picture)
        return figure, picture
