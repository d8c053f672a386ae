"""Builds the compiled kernels where it can, and says so where it cannot: without them msr runs on its references.

MSR_EXTENSION=0   build no kernels at all
MSR_CUDA=0        build no CUDA kernels
MSR_CUDA=1        build the CUDA kernels for every supported GPU, whatever torch is installed, or fail
python setup.py build_ext --inplace    build into the source tree
python setup.py check_cuda             compile every .cu for every supported GPU; needs nvcc, but no GPU

The CUDA kernels are a library of their own, `msr/_cudaN.so`, where N is the major version of nvcc: it brings that CUDA
runtime along and runs on drivers of that version and later, with a torch for any version of CUDA. What it takes from
torch's CUDA library is one function; it is linked against a stub of that, so that a CPU build of torch is enough.
Unasked, it is built only beside a CUDA build of torch, for the GPUs of this machine (for all if it has none), because
compiling for all takes minutes. Objects are kept in build/, so that what is unchanged is not compiled again.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, Extension, setup

ROOT = Path(__file__).parent
KEPT = Path("build")
# Virtual architecture that the code is parsed for, and the GPUs that it is then compiled for. The last one stays in the
# library too, for the driver to compile for GPUs that are yet to come.
ARCHITECTURES = {
    "compute_75": ("sm_75",),
    "compute_80": ("sm_80", "sm_86", "sm_89", "sm_90"),
    "compute_100": ("sm_100", "sm_120"),
}
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
NVCC_FLAGS = [
    "-O3",
    "-std=c++17",
    "--expt-relaxed-constexpr",
    "--extended-lambda",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-Xfatbin=-compress-all",
]
NVCC_STRICT = ["-Werror=all-warnings", "-Xcompiler=-Wall,-Werror"]


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


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def extensions(cpp_extension: Any) -> list[Any]:
    import torch

    flags = {"cxx": [*CXX_FLAGS, *DEFINES]}
    common: dict[str, Any] = {"include_dirs": [str(ROOT / "csrc")], "extra_compile_args": flags, "py_limited_api": True}
    found = [cpp_extension.CppExtension("msr._C", sources("*.cpp"), **common)]
    nvcc = find_nvcc()
    if os.environ.get("MSR_CUDA") == "0":
        say("no CUDA kernels: MSR_CUDA=0")
    elif nvcc is None and os.environ.get("MSR_CUDA") == "1":
        raise SystemExit("msr: MSR_CUDA=1 asks for CUDA kernels, and nvcc is neither in the PATH nor in CUDA_HOME/bin")
    elif nvcc is None or (torch.version.cuda is None and os.environ.get("MSR_CUDA") != "1"):
        say("no CUDA kernels: they need nvcc and a CUDA build of torch (or MSR_CUDA=1)")
    else:
        found.append(Extension(f"msr._cuda{nvcc_version(nvcc)[0]}", sources("*.cu"), py_limited_api=True))
    return found


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin")


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def nvcc_version(nvcc: str) -> tuple[str, str]:
    """Return major and minor version."""
    found = re.search(r"release (\d+)\.(\d+)", output(nvcc, "--version"))
    if found is None:
        raise SystemExit(f"msr: {nvcc} does not tell its version")
    return found[1], found[2]


def targets(nvcc: str, here: bool) -> list[str]:
    """Return nvcc's arguments for the GPUs of this machine if `here` and it has any, else for all that nvcc knows."""
    import torch

    if here and torch.cuda.is_available():
        gpus = {torch.cuda.get_device_capability(n) for n in range(torch.cuda.device_count())}
        names = [f"{major}{minor}" for major, minor in sorted(gpus)]
        return [f"-gencode=arch=compute_{name},code=[sm_{name},compute_{name}]" for name in names]
    known = {*output(nvcc, "--list-gpu-code").split(), *output(nvcc, "--list-gpu-arch").split()}
    virtuals = [virtual for virtual in ARCHITECTURES if virtual in known]
    arguments = []
    for virtual in virtuals:
        codes = [code for code in ARCHITECTURES[virtual] if code in known]
        codes += [virtual] if virtual == virtuals[-1] else []
        arguments.append(f"-gencode=arch={virtual},code=[{','.join(codes)}]")
    return arguments


def with_headers(source: Path) -> list[Path]:
    """Return a source and the headers of csrc that it includes, directly or not."""
    found, left = set(), [source]
    while left:
        file = left.pop()
        found.add(file)
        names = re.findall(r'^\s*#\s*include "(.+)"', file.read_text(), re.MULTILINE)
        left += [path for name in names if (path := file.parent / name).exists() and path not in found]
    return sorted(found)


def cuda_objects(cpp_extension: Any, nvcc: str, here: bool) -> list[str]:
    """Compile every .cu, unless its object is there under a name made of all that went into it.

    Warnings are errors where it is for every GPU, not where it is for this machine, with an nvcc that may be newer.
    """
    import torch

    includes = [flag for path in cpp_extension.include_paths() for flag in ("-isystem", path)]
    strict = [] if here else NVCC_STRICT
    command = [nvcc, "-c", *NVCC_FLAGS, *strict, *DEFINES, *includes, *targets(nvcc, here)]
    words = " ".join([*command, *nvcc_version(nvcc), torch.__version__])

    def compiled(name: str) -> str:
        content = b"".join(path.read_bytes() for path in with_headers(ROOT / name))
        key = hashlib.sha256(words.encode() + content).hexdigest()[:16]
        kept = KEPT / "cuda" / f"{Path(name).stem}-{key}.o"
        if not kept.exists():
            say(f"nvcc {name}")
            part = kept.with_suffix(f".{os.getpid()}.o")
            subprocess.run([*command, name, "-o", str(part)], check=True)
            part.replace(kept)
        return str(kept)

    (KEPT / "cuda").mkdir(parents=True, exist_ok=True)
    largest_first = sorted(sources("*.cu"), key=lambda name: -Path(name).stat().st_size)
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        return sorted(pool.map(compiled, largest_first))


def link_cuda(cpp_extension: Any, nvcc: str, objects: list[str], target: str) -> None:
    """Link the CUDA library: the CUDA runtime inside and hidden, torch's part left to the torch that loads it."""
    folder = KEPT / "cuda" / "stub"
    folder.mkdir(parents=True, exist_ok=True)
    stub = folder / "stub.cpp"
    stub.write_text('extern "C" void aoti_torch_get_current_cuda_stream() {}\n')
    name = "libtorch_cuda.so"
    shared = [nvcc, "-shared", "-Xcompiler=-fPIC"]
    subprocess.run(
        [*shared, "--cudart=none", f"-Xlinker=-soname,{name}", str(stub), "-o", str(folder / name)], check=True
    )
    # Hidden, for torch's own runtime is loaded too and its symbols would be taken in place of these.
    checks = "-Xlinker=--exclude-libs,ALL,--no-undefined,-s"
    # nvcc installed by pip has its runtime in lib and looks for it in lib64.
    folders = [folder, *cpp_extension.library_paths(), Path(nvcc).resolve().parents[1] / "lib"]
    libraries = [*(f"-L{path}" for path in folders), "-ltorch_cuda", "-ltorch_cpu"]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*shared, "--cudart=static", checks, *objects, *libraries, "-o", target], check=True)


def build_command(cpp_extension: Any) -> type[Command]:
    base: type[Any] = cpp_extension.BuildExtension

    class Build(base):
        """Builds each library on its own; one that does not compile is left out and the build goes on."""

        extensions: list[Any]

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(KEPT / "cpu")

        def build_extensions(self) -> None:
            wanted = self.extensions
            built: list[Any] = []
            for extension in wanted:
                self.extensions = [extension]
                try:
                    if extension.name == "msr._C":
                        super().build_extensions()
                    else:
                        self.build_cuda(extension)
                    built.append(extension)
                except (Exception, SystemExit) as error:
                    if extension.name != "msr._C" and os.environ.get("MSR_CUDA") == "1":
                        raise
                    say(f"{extension.name} was not built, its ops run on their PyTorch references: {error}")
            self.extensions = built

        def build_cuda(self, extension: Any) -> None:
            nvcc = find_nvcc()
            assert nvcc is not None
            objects = cuda_objects(cpp_extension, nvcc, here=os.environ.get("MSR_CUDA") != "1")
            link_cuda(cpp_extension, nvcc, objects, self.get_ext_fullpath(extension.name))

    return Build.with_options(no_python_abi_suffix=True, use_ninja=shutil.which("ninja") is not None)


class CheckCuda(Command):
    """Compile every .cu for every supported GPU with warnings as errors."""

    description = "compile every csrc/*.cu with nvcc, warnings as errors"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        nvcc, cpp_extension = find_nvcc(), find_torch()
        if nvcc is None or cpp_extension is None:
            raise SystemExit("check_cuda needs nvcc and torch")
        say(" ".join(targets(nvcc, here=False)))
        cuda_objects(cpp_extension, nvcc, here=False)


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
