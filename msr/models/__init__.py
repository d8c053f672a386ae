"""Architectures, the names of the models that ship, and loading."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from msr.errors import InputError, WorkError
from msr.models.burst import BurstModel
from msr.models.burst_raw import RawBurstModel
from msr.models.ensemble import self_ensemble
from msr.models.image import ImageModel
from msr.models.phase import at_phase
from msr.models.video import VideoModel

__all__ = [
    "ARCHITECTURES",
    "BurstModel",
    "ImageModel",
    "ModelCard",
    "RawBurstModel",
    "VideoModel",
    "at_phase",
    "available_models",
    "build_model",
    "load_model",
    "save_model",
    "self_ensemble",
]

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "image": ImageModel,
    "video": VideoModel,
    "burst": BurstModel,
    "burst-raw": RawBurstModel,
}

# What a weights file may ask for: a stranger's file must not make us build a network of any size.
_LIMITS = {"scale": 4, "channels": 512, "blocks": 256, "offset_groups": 64, "backward_blocks": 256}


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What is known of weights that ship: how they were trained and what they reach."""

    name: str  # what `load_model` takes
    kind: str  # "image", "video", "burst" or "burst-raw"
    scale: int
    phase: str  # "centered" or "corner"
    parameters: int
    degradation: str  # what it was trained to undo
    data: str  # what it was trained on
    steps: int
    figures: dict[str, float]  # by what was measured, decibels
    license: str


def _weights_folder() -> Path:
    return Path(str(resources.files("msr"))) / "weights"


def available_models() -> list[ModelCard]:
    """The cards of the models whose weights ship with the package, by name.

    Example:
        >>> [card.name for card in available_models() if card.kind == "image"]    # doctest: +SKIP
        ['image-x2', 'image-x4', 'image-x4-bd']
    """
    cards = []
    for path in sorted(_weights_folder().glob("*.json")):
        if path.with_suffix(".safetensors").is_file():
            cards.append(ModelCard(**json.loads(path.read_text())))
    return cards


def build_model(kind: str, arguments: dict[str, Any]) -> nn.Module:
    """Build an untrained model.

    Args:
        kind: ``"image"``, ``"video"``, ``"burst"`` or ``"burst-raw"``.
        arguments: those of its class, by name; what is left out has its default.

    Raises:
        ValueError: no such kind, an argument that its class does not take, or a value out of range.

    Example:
        >>> build_model("image", {"scale": 2, "channels": 8, "blocks": 1}).scale
        2
    """
    if kind not in ARCHITECTURES:
        raise ValueError(f"model kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    for name, limit in _LIMITS.items():
        value = arguments.get(name, 1)
        least = 0 if name == "backward_blocks" else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= limit:
            raise ValueError(f"model argument {name} must be a whole number from {least} to {limit}, got {value!r}")
    try:
        return ARCHITECTURES[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"model kind {kind!r} does not take the arguments {arguments}") from error


def save_model(model: nn.Module, kind: str, arguments: dict[str, Any], path: Path, *, half: bool = True) -> None:
    """Write weights, and what is needed to rebuild the model, as a safetensors file that appears whole or not at all.

    Args:
        model: what `build_model` made of ``kind`` and ``arguments``.
        kind: ``"image"``, ``"video"``, ``"burst"`` or ``"burst-raw"``.
        arguments: those of its class.
        path: the file, ``.safetensors``.
        half: whether to store float16 instead of float32; a tensor of numbers too large for it stays float32.

    Raises:
        WorkError: the file cannot be written, or a tensor is not of finite numbers: it would not be read again.

    Example:
        >>> save_model(model, "image", {"scale": 2}, Path("mine.safetensors"))    # doctest: +SKIP
    """
    state = {}
    for key, value in model.state_dict().items():
        full = value.detach().cpu().float().contiguous()
        if not bool(torch.isfinite(full).all()):
            raise WorkError(f"cannot write {path}: the tensor {key} is not of finite numbers")
        state[key] = full.half() if half and bool(torch.isfinite(full.half()).all()) else full
    temporary = path.with_name(f".{path.name}.part")
    metadata = {"msr": json.dumps({"kind": kind, "arguments": arguments})}
    try:
        # Not by save_file, whose files nobody but their owner may read.
        temporary.write_bytes(safetensors.torch.save(state, metadata))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WorkError(f"cannot write {path}: {error.strerror or error}") from error


def _check_state(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless ``state`` has exactly the tensors of the model, all finite."""
    expected = model.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        if key not in state:
            raise ValueError(f"it lacks the tensor {key}")
        if key not in expected:
            raise ValueError(f"its model has no tensor {key}")
        value, shape = state[key], tuple(expected[key].shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"its tensor {key} has the shape {tuple(value.shape)} instead of {shape}")
        if not value.is_floating_point() or not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"its tensor {key} is not of finite numbers")


def load_model(
    name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Load a model that ships with msr, or one from a weights file, ready for inference.

    Args:
        name: a name that `available_models` lists, or the path of a ``.safetensors`` file that ``msr train`` wrote.
        device: where to put it.
        dtype: of its weights; pictures go in and come out in their own dtype.

    Returns:
        The module in evaluation mode, with ``kind``, ``scale`` and ``phase`` as attributes.

    Raises:
        InputError: no such model or file, or the file is not a sound weights file.

    Example:
        >>> load_model("image-x4").scale    # doctest: +SKIP
        4
    """
    path = Path(name)
    if path.suffix != ".safetensors":
        path = _weights_folder() / f"{name}.safetensors"
        known = [card.name for card in available_models()]
        if str(name) not in known:
            listed = f" or one of {', '.join(known)}" if known else ""
            raise InputError(f"unknown model {str(name)!r}: expected a .safetensors file{listed}")
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("msr", "null"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        if not isinstance(description, dict) or not isinstance(description.get("arguments"), dict):
            raise ValueError("it does not say which msr model it holds")
        # Without storage, so that what the file declares costs no memory before it is seen to hold as much.
        with torch.device("meta"):
            model = build_model(str(description.get("kind")), description["arguments"])
        _check_state(model, state)
        model.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in state.items()}, assign=True)
    except (safetensors.SafetensorError, ValueError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":.")
        raise InputError(f"{path}: not a sound weights file: {reason}") from error
    return model.requires_grad_(False).to(device=device, dtype=dtype).eval()
