"""What there is: models, versions, devices, kernels; and tables in plain text."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from msr import io
from msr._extension import LIBRARIES
from msr.models import available_models
from msr.ops import kernels
from msr.ops._processor import multiplies_bfloat16


def models_table() -> tuple[list[str], list[list[str]]]:
    """The models that ship: column names and one row each.

    Example:
        >>> models_table()[0][0]
        'name'
    """
    rows = []
    for card in available_models():
        figures = ", ".join(f"{name} {value:g}" for name, value in card.figures.items())
        rows.append([card.name, card.kind, f"x{card.scale}", card.phase, f"{card.parameters:,}", figures])
    return ["name", "kind", "scale", "phase", "parameters", "figures"], rows


def info_table() -> tuple[list[str], list[list[str]]]:
    """Versions, devices, the compiled libraries and which kernel of each op runs where: column names and rows.

    Example:
        >>> info_table()[1][0][0]
        'msr'
    """
    rows = [["msr", importlib.import_module("msr").__version__], ["python", platform.python_version()]]
    for name in ("torch", "numpy", "opencv-python-headless", "av", "rawpy", "safetensors"):
        try:
            rows.append([name, importlib.metadata.version(name)])
        except importlib.metadata.PackageNotFoundError:
            rows.append([name, "not found"])
    vectors = torch.backends.cpu.get_cpu_capability()
    if multiplies_bfloat16(torch.device("cpu")):
        vectors += " with bfloat16"
    rows.append(["cpu", f"{platform.machine()}, {torch.get_num_threads()} threads, {vectors}"])
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        rows.append([f"cuda:{index}", f"{device.name}, {memory}, sm_{device.major}{device.minor}"])
    if not torch.cuda.device_count():
        rows.append(["cuda", "no device"])
    for library in LIBRARIES:
        rows.append([f"extension {library.name}", f"{'loaded' if library.loaded else 'not loaded'}: {library.detail}"])
    for op, backends in kernels().items():
        places = ("CPU", "CUDA") if torch.cuda.device_count() else ("CPU",)
        runs = ", ".join(f"{place} {'kernel' if place in backends else 'reference'}" for place in places)
        rows.append([op, runs])
    rows.append(["models", ", ".join(card.name for card in available_models()) or "none ship"])
    return ["", ""], rows


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns on stdout.

    Example:
        >>> print_table(["name", "dB"], [["cubic", "28.42"]])
        name   dB
        cubic  28.42
    """
    lines = ([columns] if any(columns) else []) + list(rows)
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def save_json(content: Any, path: Path) -> None:
    """Write what JSON can hold (text: as it is) to a file that appears whole.

    Raises:
        InputError: the file cannot be written there.
        WorkError: writing failed.

    Example:
        >>> save_json({"psnr": 28.42}, Path("/tmp/figures.json"))
    """
    io.check_output(path)
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    with io.whole(path) as part:
        part.write_text(text + "\n")
