"""The compiled kernels: loaded where they are built, switched off on demand, right on every level of instructions."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import msr
from msr._extension import LIBRARIES, driver_version, too_old
from msr.ops import flow_warp, kernels

BUILT = sorted(Path(msr.__file__).parent.glob("_C.*so"))
BUILT_CUDA = sorted(Path(msr.__file__).parent.glob("_cuda*.so"))


def run(code: str, **environment: str) -> str:
    """Run `code` in a fresh Python on the same msr, and return what it printed; anything on stderr is a failure."""
    paths = os.pathsep.join([str(Path(msr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_built_library_serves_unless_switched_off() -> None:
    cpu = LIBRARIES[0]
    assert cpu.loaded == (bool(BUILT) and os.environ.get("MSR_EXTENSION") != "0"), cpu.detail
    assert ("CPU" in kernels()["msr::flow_warp"]) == cpu.loaded
    if BUILT and not cpu.loaded:
        assert "MSR_EXTENSION=0" in cpu.detail


def test_the_cuda_library_serves_where_torch_has_cuda_and_the_driver_runs_it() -> None:
    cuda = LIBRARIES[1]
    if torch.version.cuda is None:
        assert (cuda.loaded, cuda.detail) == (False, "this torch has no CUDA")
    elif "0" in (os.environ.get("MSR_EXTENSION"), os.environ.get("MSR_CUDA")):
        assert not cuda.loaded
    else:
        assert cuda.loaded == any(too_old(driver_version(), file) is None for file in BUILT_CUDA), cuda.detail
    # In a process of its own: in this one the tests may have loaded the CUDA kernels by another way.
    assert run("from msr.ops import kernels; print('CUDA' in kernels()['msr::flow_warp'])") == str(cuda.loaded)


def test_a_driver_older_than_the_cuda_library_is_named() -> None:
    library = Path("_cuda13.so")
    assert too_old(None, library) is None
    assert too_old(13, library) is None
    assert too_old(14, library) is None
    assert too_old(12, library) == (
        "_cuda13.so needs an NVIDIA driver for CUDA 13 or later; that of this machine is for CUDA 12"
    )


def test_switched_off_every_op_runs_on_its_reference() -> None:
    code = (
        "import torch; from msr.ops import flow_warp, kernels; from msr._extension import LIBRARIES;"
        "x = torch.arange(12.).view(1, 1, 3, 4); y = flow_warp(x, torch.zeros(1, 2, 3, 4));"
        "print(any(kernels().values()), any(l.loaded for l in LIBRARIES), torch.equal(x, y), LIBRARIES[0].detail)"
    )
    assert run(code, MSR_EXTENSION="0") == "False False True switched off by MSR_EXTENSION=0"


def test_cuda_alone_can_be_switched_off() -> None:
    code = "from msr._extension import LIBRARIES; print(LIBRARIES[0].loaded, LIBRARIES[1].loaded)"
    expected = bool(BUILT) and os.environ.get("MSR_EXTENSION") != "0"
    assert run(code, MSR_CUDA="0") == f"{expected} False"


def test_importing_prints_nothing() -> None:
    assert run("import msr.ops") == ""


@pytest.mark.skipif(not LIBRARIES[0].loaded, reason="no compiled CPU kernels here")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="one level of instructions only")
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_older_processors_get_the_same_results(level: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 19, 14, 17, generator=generator)
    flow = 4 * torch.randn(1, 2, 14, 17, generator=generator)
    torch.save((x, flow), tmp_path / "in.pt")
    code = (
        f"import torch; from msr.ops import flow_warp; x, flow = torch.load({str(tmp_path / 'in.pt')!r});"
        "layouts = (torch.contiguous_format, torch.channels_last);"
        "out = [flow_warp(x.contiguous(memory_format=m), flow) for m in layouts];"
        f"torch.save(out, {str(tmp_path / 'out.pt')!r})"
    )
    run(code, MSR_SIMD=level)
    for got in torch.load(tmp_path / "out.pt"):
        torch.testing.assert_close(got, flow_warp(x, flow), rtol=1e-5, atol=1e-5, check_stride=False)
