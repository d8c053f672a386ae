"""The log of a training run: one JSON object a line, and TensorBoard's files where they are wanted."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from msr.errors import InputError, WorkError
from msr.io.output import whole


class Record:
    """Writes beside the weights: ``NAME.jsonl``, and the folder ``NAME.tensorboard``.

    Args:
        output: the weights file.
        tensorboard: whether to write for TensorBoard, too.
        step: what was noted after it, or as final, is forgotten: a run that goes on from a checkpoint notes it again.

    Raises:
        InputError: TensorBoard is wanted and not installed.
        WorkError: the log cannot be written.

    Example:
        >>> Record(Path("mine.safetensors"), False, 0).note(100, {"loss": 0.02})    # doctest: +SKIP
    """

    def __init__(self, output: Path, tensorboard: bool, step: int) -> None:
        self.path = output.with_suffix(".jsonl")
        self._writer: Any = None
        if tensorboard:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(output.with_suffix(".tensorboard")), purge_step=step + 1)
        if self.path.exists():
            kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step(line) <= step]
            with whole(self.path) as part:
                part.write_text("".join(f"{line}\n" for line in kept))

    def note(self, step: int, entry: dict[str, Any]) -> None:
        """Add figures of a step."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **entry}) + "\n")
        except OSError as error:
            raise WorkError(f"cannot write {self.path}: {error.strerror}") from error
        if self._writer is not None:
            for name, value in entry.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def picture(self, step: int, pixels: np.ndarray) -> None:
        """Show a validation picture (H, W, 3) uint8 in TensorBoard."""
        if self._writer is not None:
            self._writer.add_image("validation", pixels, step, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Finish TensorBoard's files."""
        if self._writer is not None:
            self._writer.close()


def check_tensorboard() -> None:
    """Refuse to write for TensorBoard where its package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("[train] tensorboard needs the package tensorboard, which is not installed")


def _step(line: str) -> float:
    """The step of a line; infinite where the line was cut off, or is the last of a run that had ended."""
    try:
        entry = json.loads(line)
        return math.inf if entry.get("final") else float(entry["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf
