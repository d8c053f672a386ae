"""Loads the compiled kernels that were built with the package, if any; never fails and never prints.

Two libraries may lie beside this file: `_C` with the CPU kernels and `_cuda` with the CUDA kernels. Each only overrides
ops that msr.ops registers in Python, so that without them every op runs on its PyTorch reference.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Library:
    """One compiled library: whether it serves, and where it lies or why it does not serve."""

    name: str
    loaded: bool
    detail: str


def _load(name: str, *switches: str) -> Library:
    for switch in switches:
        if os.environ.get(switch) == "0":
            return Library(name, False, f"switched off by {switch}=0")
    found = sorted(Path(__file__).parent.glob(f"{name}.*so"))
    if not found:
        return Library(name, False, "not built")
    try:
        torch.ops.load_library(found[0])
    except (OSError, RuntimeError) as error:  # built for another machine or an older torch: the references still serve
        return Library(name, False, str(error).splitlines()[0])
    return Library(name, True, str(found[0]))


def _load_all() -> tuple[Library, ...]:
    cpu = _load("_C", "MSR_EXTENSION")
    if torch.version.cuda is None:
        return cpu, Library("_cuda", False, "this torch has no CUDA")
    return cpu, _load("_cuda", "MSR_EXTENSION", "MSR_CUDA")


LIBRARIES = _load_all()
