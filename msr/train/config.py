"""The training configuration: a TOML file, checked field by field."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msr.degradation import PHASES
from msr.errors import InputError


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from and how clips are made of them."""

    photos: str = ""  # folder of photos, searched recursively
    clips: str = ""  # folder of video files and of folders of frames
    clip_shrink: float = 2.0  # clips are reduced so much before they serve as originals
    clip_share: float = 0.5  # share of real clips in a batch; the rest is simulated from photos
    description: str = ""  # of the data, for the weights' card
    validation: str = ""  # folder of originals: photos, or folders of frames for video


@dataclass(frozen=True)
class DegradationConfig:
    """How low resolution comes about (see `msr.degradation`)."""

    name: str = "bi"
    noise: float = 0.0  # standard deviation, for "box"


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    output: str = ""  # weights file to write; checkpoint, log and pictures go beside it
    init: tuple[str, ...] = ()  # weights files or model names whose tensors of the same name and shape are taken over
    steps: int = 10000
    minutes: float = 0.0  # stop after so much training time (0: after `steps`); the learning rate follows it
    batch: int = 16
    patch: int = 32  # low-resolution pixels
    frames: int = 1  # of a clip or burst
    learning_rate: float = 1e-3
    loss: str = "charbonnier"
    flow_weight: float = (
        0.0  # of the flow's own loss: known motion where simulated, agreement of warped frames elsewhere
    )
    flow_only: bool = False  # train the flow network alone
    taken_rate: float = 1.0  # learning rate of what `init` gave, relative to that of what is new
    ema: float = 0.999
    bf16: bool = True
    seed: int = 0
    threads: int = 0  # 0: as PyTorch chooses
    validate_every: int = 500
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True)
class Config:
    """One training run: ``[model]``, ``[data]``, ``[degradation]`` and ``[train]`` of the TOML file."""

    kind: str
    model: dict[str, Any]
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def _section(path: Path, name: str, cls: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{path}: [{name}] must be a table")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{path}: [{name}] has no setting {key!r}; it has {', '.join(fields)}")
        default = fields[key].default
        if isinstance(default, tuple):
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise InputError(f"{path}: [{name}] {key} must be a list of strings, got {value!r}")
            continue
        kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise InputError(f"{path}: [{name}] {key} must be a {type(default).__name__}, got {value!r}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def load_config(path: Path) -> Config:
    """Read and check a training configuration.

    Raises:
        InputError: the file cannot be read, is not TOML, or a setting is unknown or of the wrong type.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    unknown = set(raw) - {"model", "data", "degradation", "train"}
    if unknown:
        raise InputError(f"{path}: unknown table [{sorted(unknown)[0]}]")
    model = dict(raw.get("model", {}))
    kind = model.pop("kind", None)
    if kind not in ("image", "video", "burst"):
        raise InputError(f"{path}: [model] kind must be image, video or burst, got {kind!r}")
    config = Config(
        kind=kind,
        model=model,
        data=_section(path, "data", DataConfig, raw.get("data", {})),
        degradation=_section(path, "degradation", DegradationConfig, raw.get("degradation", {})),
        train=_section(path, "train", TrainConfig, raw.get("train", {})),
    )
    if config.degradation.name not in PHASES:
        raise InputError(f"{path}: [degradation] name must be one of {', '.join(PHASES)}")
    if not config.train.output.endswith(".safetensors"):
        raise InputError(f"{path}: [train] output must name a .safetensors file")
    if not config.data.photos and not config.data.clips:
        raise InputError(f"{path}: [data] names neither photos nor clips")
    return config
