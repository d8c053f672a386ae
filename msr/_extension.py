"""Loads the compiled kernels that were built with the package, if any; never fails and never prints.

Two libraries may lie beside this file: `_C` with the CPU kernels and `_cudaN` with the CUDA kernels, where N is the
major version of the CUDA runtime inside it. Each only overrides ops that msr.ops registers in Python, so that without
them every op runs on its PyTorch reference.
"""

import ctypes
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


def driver_version() -> int | None:
    """Return the major version of CUDA that the NVIDIA driver of this machine runs; None where there is no driver."""
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else version.value // 1000


def too_old(driver: int | None, file: Path) -> str | None:
    """Return why the kernels of a `_cudaN` cannot run on a driver; None where they can, or where there is no driver."""
    needed = int(file.name.removeprefix("_cuda").partition(".")[0])
    if driver is None or driver >= needed:
        return None
    return f"{file.name} needs an NVIDIA driver for CUDA {needed} or later; that of this machine is for CUDA {driver}"


def _load(name: str, pattern: str, *switches: str) -> Library:
    for switch in switches:
        if os.environ.get(switch) == "0":
            return Library(name, False, f"switched off by {switch}=0")
    found = sorted(Path(__file__).parent.glob(pattern))
    if not found:
        return Library(name, False, "not built")
    if name == "_cuda" and (reason := too_old(driver_version(), found[0])):
        return Library(name, False, reason)
    try:
        torch.ops.load_library(found[0])
    except (OSError, RuntimeError) as error:  # built for another machine or a newer torch: the references still serve
        return Library(name, False, str(error).splitlines()[0])
    return Library(name, True, str(found[0]))


def _load_all() -> tuple[Library, ...]:
    cpu = _load("_C", "_C.*so", "MSR_EXTENSION")
    if torch.version.cuda is None:
        return cpu, Library("_cuda", False, "this torch has no CUDA")
    return cpu, _load("_cuda", "_cuda[0-9]*.so", "MSR_EXTENSION", "MSR_CUDA")


LIBRARIES = _load_all()
