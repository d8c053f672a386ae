"""What is handed on: libraries that ask nothing of Python and of torch only its stable ABI, and all of the sources."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import msr

ROOT = Path(__file__).parents[1]
LIBRARIES = sorted(Path(msr.__file__).parent.glob("_*.so"))
# Functions of the stable ABI in C; the CUDA library's one function of torch's CUDA library is of them.
STABLE = re.compile(r"(aoti_torch|torch)_\w+")
# Names that the C and C++ runtimes define have a version; those without one are of the compiler and the dynamic linker,
# or of the newest C++ library, which torch brings along for systems that have an older one.
RUNTIME = re.compile(r".+@(GLIBC|GLIBCXX|CXXABI|GCC)_[0-9.]+|_ITM_\w+|__gmon_start__|__cxa_finalize|_ZN?K?St\w+")
NEEDED = {"libc10.so", "libtorch_cpu.so", "libtorch_cuda.so"}
SYSTEM = re.compile(r"lib(stdc\+\+|m|gcc_s|c|dl|rt|pthread)\.so\.\d+|ld-linux-.+\.so\.\d+")

needs_libraries = pytest.mark.skipif(
    not LIBRARIES or shutil.which("nm") is None or shutil.which("readelf") is None,
    reason="no compiled kernels here, or neither nm nor readelf",
)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_libraries
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_take_from_torch_only_its_stable_functions(library: Path) -> None:
    undefined = [line.split()[-1] for line in output("nm", "-D", "--undefined-only", str(library)).splitlines()]
    ours = [name for name in undefined if not RUNTIME.fullmatch(name)]
    assert "torch_library_impl" in ours
    assert [name for name in ours if not STABLE.fullmatch(name)] == []


@needs_libraries
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_need_torch_and_the_c_runtimes_alone(library: Path) -> None:
    dynamic = output("readelf", "-d", str(library))
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if name not in NEEDED and not SYSTEM.fullmatch(name)] == []
    assert ("libtorch_cuda.so" in needed) == library.name.startswith("_cuda")
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic


@needs_libraries
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_export_nothing_that_could_stand_in_for_anothers(library: Path) -> None:
    defined = [line.split()[-1] for line in output("nm", "-D", "--defined-only", str(library)).splitlines()]
    assert [name for name in defined if name.startswith(("cuda", "__cuda", "cu", "Py", "aoti_", "torch_"))] == []


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests alone, without the source")
def test_a_source_distribution_holds_what_the_readme_speaks_of(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    listed = set((tmp_path / "msr.egg-info" / "SOURCES.txt").read_text().splitlines())
    wanted = [ROOT / name for name in ("Makefile", "CONTRIBUTING.md", "constraints.txt", "msr/py.typed")]
    for folder, names in (("tests", "*.py"), ("docs", "*.md"), ("examples", "*.*"), ("csrc", "*.*")):
        wanted += (ROOT / folder).rglob(names)
    assert [path for path in wanted if path.is_file() and str(path.relative_to(ROOT)) not in listed] == []
    assert not [name for name in listed if name.endswith((".pyc", ".so"))]
