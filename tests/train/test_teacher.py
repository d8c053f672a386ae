"""Learning from the results of another network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import photo_folder
from test_training import MODEL, config

from msr.errors import InputError
from msr.models import build_model, load_model, save_model
from msr.train.trainer import Trainer


def teacher_file(path: Path, kind: str, **arguments: Any) -> str:
    """Weights of a network that changes what it enlarges."""
    torch.manual_seed(7)
    model = build_model(kind, {**MODEL, **arguments})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    save_model(model, kind, {**MODEL, **arguments}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_loss_is_mixed_of_originals_and_teacher(kind: str, tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos")
    teacher = teacher_file(tmp_path / "teacher.safetensors", kind)
    made = config(
        kind, photos, tmp_path / "a.safetensors", teacher=teacher, teacher_weight=0.25, loss="mse", bf16=False
    )
    trainer = Trainer(made)
    batch = trainer.task.sample(np.random.default_rng(0))
    with torch.no_grad():
        own, taught = trainer.model(batch["lr"]), load_model(teacher)(batch["lr"])
    expected = 0.75 * (own - batch["hr"]).square().mean() + 0.25 * (own - taught).square().mean()
    assert (taught - own).square().mean() > 1e-4
    assert trainer.update(batch)["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_a_teacher_alone_is_approached(tmp_path: Path) -> None:
    teacher = teacher_file(tmp_path / "teacher.safetensors", "image")
    settings = {"steps": 60, "learning_rate": 5e-3, "teacher": teacher, "teacher_weight": 1.0, "bf16": False}
    trainer = Trainer(config("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors", **settings))
    batch = trainer.task.sample(np.random.default_rng(0))
    batch["hr"] = torch.zeros_like(batch["hr"])  # would draw it elsewhere, had it any weight
    losses = [trainer.update(batch)["loss"] for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("kind", "arguments", "what"),
    [("video", {}, "kind"), ("image", {"scale": 4}, "scale"), ("image", {"phase": "corner"}, "phase")],
)
def test_a_teacher_of_something_else(kind: str, arguments: dict[str, Any], what: str, tmp_path: Path) -> None:
    teacher = teacher_file(tmp_path / "teacher.safetensors", kind, **arguments)
    with pytest.raises(InputError, match=f"must have the {what} of the model"):
        Trainer(config("image", photo_folder(tmp_path / "photos"), tmp_path / "a.safetensors", teacher=teacher))
