"""Other weights that a run begins with or learns from."""

from __future__ import annotations

from torch import nn

from msr.errors import InputError
from msr.models import load_model


def take_over(model: nn.Module, init: str) -> set[str]:
    """Copy the tensors of the same name and shape from other weights; returns their names."""
    source = load_model(init).state_dict()
    own = model.state_dict()
    taken = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(taken, strict=False)
    return set(taken)


def load_teacher(name: str, model: nn.Module) -> nn.Module | None:
    """The network whose results a model learns from, None for no name.

    Raises:
        InputError: no such weights, or the teacher's results are not of the kind, size and place of the model's.
    """
    if not name:
        return None
    teacher = load_model(name)
    for what in ("kind", "scale", "phase"):
        own, other = getattr(model, what), getattr(teacher, what)
        if own != other:
            raise InputError(f"[train] teacher {name} must have the {what} of the model, {own}, got {other}")
    return teacher
