"""The training configuration: a TOML file, checked field by field."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from torch import Tensor

from msr.degradation import PHASES, DegradationName, degrade
from msr.errors import InputError
from msr.models import ARCHITECTURES
from msr.ops.resize import Phase
from msr.train.losses import LossName
from msr.train.optimizer import OptimizerName


@dataclass(frozen=True)
class DataConfig:
    """Where pictures come from and how clips are made of them."""

    photos: str = ""  # folder of photos, searched recursively
    photo_shrink: float = 1.0  # what is cut out of a photo is reduced by up to so much, at random
    photo_drawn: float = 0.0  # share of the crops that are drawn instead: flat, saturated colours, sharp edges, letters
    clips: str = ""  # folder of video files and of folders of frames
    clip_shrink: float = 2.0  # clips are reduced so much before they serve as originals
    clip_share: float = 0.5  # share of real clips in a batch; the rest is simulated from photos
    description: str = ""  # of the data, for the weights' card
    validation: str = ""  # folder of originals: photos, or folders of frames for video


@dataclass(frozen=True)
class DegradationConfig:
    """How low resolution comes about (see `msr.degradation`)."""

    name: str = "bi"
    noise: float = 0.0  # standard deviation, for "box"; for "real" the largest (0: 0.012)
    plain: float = 0.0  # share of the clips of "real" that are "bi": neither blurred nor noisy nor compressed
    h264: float = 0.0  # share of what "real" does not leave clean that is compressed as a clip, not frame by frame

    @property
    def phase(self) -> Phase:
        """Where the enlarged pixels lie."""
        return PHASES[self.name]

    def apply(self, hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
        """Reduce pictures, or the frames of one clip, ``(B, 3, H, W)`` in [0, 1]."""
        return degrade(hr, cast(DegradationName, self.name), scale, rng, self.noise, self.plain, self.h264)


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    output: str = ""  # weights file to write; checkpoint, log and pictures go beside it
    init: tuple[str, ...] = ()  # weights files or model names whose tensors of the same name and shape are taken over
    # Blocks of the trunk that are kept of `init`, counted from 0, for a network of fewer blocks; empty: all.
    init_blocks: tuple[int, ...] = ()
    steps: int = 10000
    minutes: float = 0.0  # stop after so much training time (0: after `steps`); the learning rate follows it
    batch: int = 16
    patch: int = 32  # low-resolution pixels
    frames: int = 1  # of a clip or burst
    # Smaller patches and shorter clips at first, which are quicker: [until which share of the steps, patch, frames].
    stages: tuple[tuple[float, int, int], ...] = ()
    learning_rate: float = 1e-3
    # Muon moves the weights between features, Adam all others: less loss after as many steps.
    optimizer: str = "adam"
    muon_rate: float = 2.0  # learning rate of what Muon moves, relative to that of the rest
    loss: str = "charbonnier"
    teacher: str = ""  # weights file or model of the same kind, scale and phase, whose results are learnt from, too
    teacher_weight: float = 0.5  # of the loss to the teacher's results; the rest is that to the originals
    # Weight of the flow's own loss: known motion where simulated, agreement of warped frames elsewhere.
    flow_weight: float = 0.0
    flow_share: float = 1.0  # share of the steps in which the flow network learns; the others are quicker
    flow_only: bool = False  # train the flow network alone
    taken_rate: float = 1.0  # learning rate of what `init` gave, relative to that of what is new
    ema: float = 0.999
    bf16: bool = True  # multiply in bfloat16, but on a device without instructions for it, where that takes far longer
    seed: int = 0
    threads: int = 0  # 0: as PyTorch chooses
    validate_every: int = 500
    log_every: int = 100  # steps; a line of the log is the mean over them
    tensorboard: bool = False  # write for TensorBoard, too; needs the package tensorboard
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True)
class Config:
    """One training run: ``[model]``, ``[data]``, ``[degradation]`` and ``[train]`` of the TOML file."""

    kind: str
    model: dict[str, Any]
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def at(self, step: int) -> Config:
        """The configuration with the patch and the number of frames of a step (counted from 0).

        Example:
            >>> Config("image", {}, train=TrainConfig(steps=10, patch=32, stages=((0.5, 16, 1),))).at(4).train.patch
            16
        """
        for share, patch, frames in self.train.stages:
            if step < share * self.train.steps:
                return dataclasses.replace(self, train=dataclasses.replace(self.train, patch=patch, frames=frames))
        return self


def _section(path: Path, name: str, cls: type, values: Any) -> Any:
    if not isinstance(values, dict):
        raise InputError(f"{path}: [{name}] must be a table")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{path}: [{name}] has no setting {key!r}; it has {', '.join(fields)}")
        default = fields[key].default
        if key == "stages":
            if not isinstance(value, list) or not all(_is_stage(stage) for stage in value):
                raise InputError(f"{path}: [{name}] stages must be a list of [share, patch, frames], got {value!r}")
            continue
        if isinstance(default, tuple):
            kind, said = (int, "whole numbers") if key == "init_blocks" else (str, "strings")
            if not isinstance(value, list) or not all(type(v) is kind for v in value):
                raise InputError(f"{path}: [{name}] {key} must be a list of {said}, got {value!r}")
            continue
        kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise InputError(f"{path}: [{name}] {key} must be a {type(default).__name__}, got {value!r}")
    return cls(**{key: _frozen(value) for key, value in values.items()})


def _is_stage(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3 or any(isinstance(v, bool) for v in value):
        return False
    return isinstance(value[0], int | float) and all(isinstance(v, int) for v in value[1:])


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def load_config(path: Path) -> Config:
    """Read and check a training configuration.

    Raises:
        InputError: the file cannot be read, is not TOML, or a setting is unknown, of the wrong type or out of range.

    Example:
        >>> load_config(Path("image-x4.toml")).train.steps    # doctest: +SKIP
        10000
    """
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not text'}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    unknown = set(raw) - {"model", "data", "degradation", "train"}
    if unknown:
        raise InputError(f"{path}: unknown table or setting {sorted(unknown)[0]!r}")
    if not isinstance(raw.get("model", {}), dict):
        raise InputError(f"{path}: [model] must be a table")
    model = dict(raw.get("model", {}))
    kind = model.pop("kind", None)
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise InputError(f"{path}: [model] kind must be one of {', '.join(ARCHITECTURES)}, got {kind!r}")
    config = Config(
        kind=kind,
        model=model,
        data=_section(path, "data", DataConfig, raw.get("data", {})),
        degradation=_section(path, "degradation", DegradationConfig, raw.get("degradation", {})),
        train=_section(path, "train", TrainConfig, raw.get("train", {})),
    )
    try:
        _check(config)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return config


def _check(config: Config) -> None:
    """Raise ValueError where settings of the right type make no training."""
    data, degradation, train = config.data, config.degradation, config.train
    if not data.photos and not data.clips:
        raise ValueError("[data] names neither photos nor clips")
    if not data.photos and config.kind != "video":
        raise ValueError(f"[data] names no photos, and the model is of kind {config.kind}")
    for name in ("clip_share", "photo_drawn"):
        if not 0.0 <= getattr(data, name) <= 1.0:
            raise ValueError(f"[data] {name} must be from 0 to 1, got {getattr(data, name)}")
    for name in ("clip_shrink", "photo_shrink"):
        if not 1.0 <= getattr(data, name) < math.inf:
            raise ValueError(f"[data] {name} must be at least 1, got {getattr(data, name)}")
    if degradation.name not in PHASES:
        raise ValueError(f"[degradation] name must be one of {', '.join(PHASES)}, got {degradation.name!r}")
    if (degradation.name == "raw") != (config.kind == "burst-raw"):
        raise ValueError(f"[degradation] raw is for burst-raw alone, got {degradation.name!r} for {config.kind}")
    if config.kind == "burst" and degradation.name not in ("box", "real"):
        raise ValueError(f"[degradation] a burst is of box or real, got {degradation.name!r}")
    if not 0.0 <= degradation.noise < math.inf:
        raise ValueError(f"[degradation] noise must not be negative, got {degradation.noise}")
    for name in ("plain", "h264"):
        if not 0.0 <= getattr(degradation, name) <= 1.0:
            raise ValueError(f"[degradation] {name} must be from 0 to 1, got {getattr(degradation, name)}")
    # A model at another phase would spend its capacity on a shift.
    phase = config.model.get("phase", "centered")
    if phase != PHASES[degradation.name]:
        raise ValueError(f"[model] phase must be {PHASES[degradation.name]!r} for {degradation.name}, got {phase!r}")
    if Path(train.output).suffix != ".safetensors":
        raise ValueError("[train] output must name a .safetensors file")
    for name, choices in (("loss", get_args(LossName)), ("optimizer", get_args(OptimizerName))):
        if getattr(train, name) not in choices:
            raise ValueError(f"[train] {name} must be one of {', '.join(choices)}, got {getattr(train, name)!r}")
    lowest = {"steps": 1, "batch": 1, "patch": 1, "validate_every": 1, "log_every": 1, "threads": 0, "seed": 0}
    lowest["frames"] = 1 if config.kind == "image" else 2
    for name, least in lowest.items():
        if getattr(train, name) < least:
            raise ValueError(f"[train] {name} must be at least {least}, got {getattr(train, name)}")
    for name, most in (("threads", 1024), ("seed", 2**63 - 1)):
        if getattr(train, name) > most:
            raise ValueError(f"[train] {name} must be at most {most}, got {getattr(train, name)}")
    for name in ("minutes", "learning_rate", "muon_rate", "flow_weight", "taken_rate", "checkpoint_minutes"):
        if not 0.0 <= getattr(train, name) < math.inf:
            raise ValueError(f"[train] {name} must not be negative, got {getattr(train, name)}")
    if not 0.0 <= train.ema < 1.0:
        raise ValueError(f"[train] ema must be from 0 to below 1, got {train.ema}")
    for name in ("flow_share", "teacher_weight"):
        if not 0.0 <= getattr(train, name) <= 1.0:
            raise ValueError(f"[train] {name} must be from 0 to 1, got {getattr(train, name)}")
    if train.teacher and config.kind not in ("image", "video"):
        raise ValueError(f"[train] a teacher is for models of kind image or video, got {config.kind}")
    if train.flow_only and (config.kind == "image" or train.flow_weight == 0.0):
        raise ValueError("[train] flow_only needs a video or burst model and a flow_weight above 0")
    before = 0.0
    for share, patch, frames in train.stages:
        if not before < share < 1.0:
            raise ValueError(f"[train] stages must have rising shares between 0 and 1, got {share} after {before}")
        if patch < 1 or frames < lowest["frames"]:
            needed = f"a patch of 1 and {lowest['frames']} frames at least"
            raise ValueError(f"[train] stages need {needed}, got {patch} and {frames}")
        before = share
    if train.stages and train.minutes:
        raise ValueError("[train] stages go by steps, so minutes must be 0")
