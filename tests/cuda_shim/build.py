"""Compiles csrc/ for the tests: the .cu files as C++ against the shim, and either library under the sanitizers.

Objects are kept in build/cuda_shim under a name made of all that went into them, so that only what changed is compiled.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

SHIM = Path(__file__).parent
ROOT = SHIM.parents[1]
KEPT = ROOT / "build" / "cuda_shim"
# Reads and writes outside of what was allocated, signed overflow, misaligned and null pointers, indices outside of an
# array's bounds, and conversions to integers that do not fit; each ends the program.
SANITIZE = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
FLAGS = ("-O1", "-g1", "-std=c++17", "-fPIC", "-Wall", "-Wno-unknown-pragmas")
TORCH = ("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", f"-I{ROOT / 'csrc'}")


def compiler() -> str | None:
    """Return the C++ compiler, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++"))


def run(command: list[str]) -> None:
    # What is preloaded for the tests under the sanitizers would slow the compiler down.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def digest(files: list[Path], words: list[str]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    found.update("\n".join(words).encode())
    return found.hexdigest()[:16]


def with_headers(source: Path) -> list[Path]:
    """Return a source and the headers of the project that it includes, directly or not."""
    found, left = [], [source]
    while left:
        file = left.pop()
        found.append(file)
        for name in re.findall(r'^\s*#\s*include "(.+)"', file.read_text(), re.MULTILINE):
            near = [path for path in (file.parent / name, ROOT / "csrc" / name, SHIM / name) if path.exists()]
            left += [path for path in near[:1] if path not in found and path not in left]
    return sorted(found)


def make(command: list[str], target: Path) -> Path:
    """Run a command that writes a file, unless it is there; whole or not at all."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        run([*command, "-o", str(part)])
        part.replace(target)
    return target


def library(name: str, sources: list[Path], flags: list[str]) -> Path:
    """Compile C++ sources (.cu ones are taken as such) against torch and the shim's headers into one library."""
    found = compiler()
    assert found is not None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    includes = [word for path in cpp_extension.include_paths() for word in ("-isystem", path)]
    command = [found, *FLAGS, *flags, *TORCH, f"-I{SHIM}", *includes, "-x", "c++", "-c"]

    def compiled(source: Path) -> Path:
        key = digest(with_headers(source), [*command, torch.__version__, version])
        return make([*command, str(source)], KEPT / f"{source.stem}-{key}.o")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compiled, sources)]
    torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch_cpu", "-lc10"]
    link = [found, "-shared", *flags, *objects, *torch_libraries]
    return make(link, KEPT / f"lib{name}-{digest([], link)}.so")


def kernels(suffix: str, ops: Sequence[str]) -> list[Path]:
    """Return the sources of some ops, of all where none is named."""
    if unknown := set(ops) - {path.stem for path in (ROOT / "csrc").glob("*.c*")}:
        raise ValueError(f"no kernel in csrc for {', '.join(sorted(unknown))}")
    return [path for path in sorted((ROOT / "csrc").glob(f"*{suffix}")) if not ops or path.stem in ops]


def cuda_kernels(sanitize: Sequence[str] | None = None) -> Path:
    """Return a library that runs the .cu files on the CPU; of the named ops (of all if none) under the sanitizers."""
    sources = [*kernels(".cu", sanitize or ()), SHIM / "exports.cpp"]
    return library("shim", sources, ["-DMSR_CUDA_SHIM", *(SANITIZE if sanitize is not None else ())])


def cpu_kernels(ops: Sequence[str]) -> Path:
    """Return a library of the CPU kernels of the named ops (of all if none) under the sanitizers."""
    flags = ["-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", *SANITIZE]
    return library("cpu", kernels(".cpp", ops), flags)


def faults(sanitize: bool) -> Path:
    """Return the program of faults.cpp."""
    found = compiler()
    assert found is not None
    source = SHIM / "faults.cpp"
    command = [found, *FLAGS, *(SANITIZE if sanitize else ()), str(source)]
    return make(command, KEPT / f"faults-{digest(with_headers(source), command)}")
