"""Builds the compiled kernels where it can, and says so where it cannot: without them msr runs on its references.

MSR_EXTENSION=0   build no kernels at all
MSR_CUDA=0        build no CUDA kernels
python setup.py build_ext --inplace    build into the source tree
python setup.py check_cuda             compile every .cu for every supported GPU; needs nvcc, but no GPU
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, setup

ROOT = Path(__file__).parent
# Virtual architecture that check_cuda parses the code for, and the GPUs that it then compiles for. Parsing takes most
# of the time, so it is done once for the GPUs before Blackwell and once for Blackwell.
ARCHITECTURES = {"75": ("75", "80", "86", "89", "90"), "100": ("100", "120")}
# The oldest torch whose stable ABI the kernels use, in the form that its headers want.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
# Contraction to fused multiply-adds; no bookkeeping of errno or floating-point traps, which only hinders vectorisation.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-fopenmp-simd",
    "-std=c++17",
    "-Wall",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
]
NVCC_FLAGS = ["-O3", "-std=c++17", "--expt-relaxed-constexpr", "--extended-lambda"]


def say(sentence: str) -> None:
    print(f"msr: {sentence}", file=sys.stderr, flush=True)


def find_torch() -> Any:
    """Return torch.utils.cpp_extension, or None where torch is not installed.

    pip builds in an environment of its own, which hides the torch that is installed already and that msr will run on.
    """
    try:
        from torch.utils import cpp_extension
    except ImportError:
        sys.path.append(sysconfig.get_paths()["purelib"])
        try:
            from torch.utils import cpp_extension
        except ImportError:
            return None
    return cpp_extension


def extensions(cpp_extension: Any) -> list[Any]:
    import torch

    def sources(pattern: str) -> list[str]:
        return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))

    common: dict[str, Any] = {"include_dirs": [str(ROOT / "csrc")], "py_limited_api": True}
    cxx = [*CXX_FLAGS, *DEFINES]
    found = []
    if sources("*.cpp"):
        found.append(cpp_extension.CppExtension("msr._C", sources("*.cpp"), extra_compile_args={"cxx": cxx}, **common))
    if os.environ.get("MSR_CUDA") == "0":
        say("no CUDA kernels: MSR_CUDA=0")
    elif torch.version.cuda is None or cpp_extension.CUDA_HOME is None:
        say("no CUDA kernels: they need nvcc and a CUDA build of torch")
    elif sources("*.cu"):
        flags = {"cxx": cxx, "nvcc": [*NVCC_FLAGS, *DEFINES]}
        found.append(cpp_extension.CUDAExtension("msr._cuda", sources("*.cu"), extra_compile_args=flags, **common))
    return found


def build_command(cpp_extension: Any) -> type[Command]:
    base: type[Any] = cpp_extension.BuildExtension

    class Build(base):
        """Builds each library on its own; one that does not compile is left out and the build goes on."""

        extensions: list[Any]

        def build_extensions(self) -> None:
            wanted = self.extensions
            built: list[Any] = []
            for extension in wanted:
                self.extensions = [extension]
                try:
                    super().build_extensions()
                    built.append(extension)
                except (Exception, SystemExit) as error:
                    say(f"{extension.name} was not built, its ops run on their PyTorch references: {error}")
            self.extensions = built

    return Build.with_options(no_python_abi_suffix=True, use_ninja=shutil.which("ninja") is not None)


class CheckCuda(Command):
    """Compile every .cu for every supported GPU with warnings as errors, and keep nothing."""

    description = "compile every csrc/*.cu with nvcc, warnings as errors"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        nvcc = shutil.which("nvcc")
        cpp_extension = find_torch()
        if nvcc is None or cpp_extension is None:
            raise SystemExit("check_cuda needs nvcc and torch")
        includes = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
        targets = []
        for virtual, real in ARCHITECTURES.items():
            targets.append(f"-gencode=arch=compute_{virtual},code=[{','.join(f'sm_{number}' for number in real)}]")
        warnings = ["--Werror", "all-warnings", "-Xcompiler", "-Wall,-Werror"]
        with tempfile.TemporaryDirectory() as folder:
            for source in sorted((ROOT / "csrc").glob("*.cu")):
                say(f"nvcc {source.name} for sm_75, 80, 86, 89, 90, 100 and 120")
                command = [nvcc, "-c", *NVCC_FLAGS, *warnings, *DEFINES, *includes, f"-I{ROOT / 'csrc'}", *targets]
                command += [f"--threads={os.cpu_count()}", str(source), "-o", f"{folder}/{source.stem}.o"]
                subprocess.run(command, check=True)


def main() -> None:
    commands: dict[str, type[Command]] = {"check_cuda": CheckCuda}
    options: dict[str, Any] = {}
    modules: list[Any] = []
    if "check_cuda" not in sys.argv:
        if os.environ.get("MSR_EXTENSION") == "0":
            say("no kernels: MSR_EXTENSION=0")
        elif (cpp_extension := find_torch()) is None:
            say("no kernels: torch is not installed, and they are compiled against it")
        else:
            modules = extensions(cpp_extension)
            commands["build_ext"] = build_command(cpp_extension)
            options["bdist_wheel"] = {"py_limited_api": "cp311"}
    setup(ext_modules=modules, cmdclass=commands, options=options)


main()
