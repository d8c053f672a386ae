"""Other weights that a run begins with or learns from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from msr.errors import InputError
from msr.models import load_model

_BLOCK = re.compile(r"trunk\.blocks\.(\d+)\.")


def take_over(model: nn.Module, init: str, blocks: Sequence[int] = ()) -> set[str]:
    """Copy the tensors of the same name and shape from other weights; returns their names.

    Args:
        model: what takes them.
        init: weights file or name of a model.
        blocks: those of the source's trunk, counted from 0, that become the first, second and so on; empty: all, as
            they are.

    Raises:
        InputError: no such weights or block, or no convolution fits.
    """
    source = load_model(init).state_dict()
    if blocks:
        there = {int(match[1]) for name in source if (match := _BLOCK.match(name))}
        for block in blocks:
            if block not in there:
                raise InputError(f"[train] init_blocks: {init} has {len(there)} blocks and no block {block}")
        source = dict(_kept(source, blocks))
    own = model.state_dict()
    taken = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    if all(v.ndim == 1 for v in taken.values()):  # a bias may fit by chance
        raise InputError(f"[train] init: no convolution of {init} has the name and shape of one of the model")
    model.load_state_dict(taken, strict=False)
    return set(taken)


def _kept(source: Mapping[str, Tensor], blocks: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in source.items():
        match = _BLOCK.match(name)
        if match is None:
            yield name, tensor
        for place, block in enumerate(blocks):
            if match is not None and int(match[1]) == block:
                yield f"trunk.blocks.{place}.{name[match.end() :]}", tensor


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
