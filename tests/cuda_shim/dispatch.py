"""Sends the calls of msr's ops to the CUDA kernels that the shim runs on the CPU."""

import ctypes
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from cuda_shim import build
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from msr._extension import LIBRARIES

ORDERS = ("forward", "reverse", "shuffled")
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


class Shim:
    """The loaded library: in which order the threads of a block run, and what has run so far."""

    def __init__(self, path: Path) -> None:
        if (
            cuda_ops()
        ):  # these would be replaced by the shim's for good, and then be given addresses of the GPU's memory
            raise RuntimeError("msr's CUDA kernels are loaded; with MSR_CUDA=0 they run on the shim")
        torch.ops.load_library(path)
        self.ops = sorted(cuda_ops())
        self.library = ctypes.CDLL(str(path))
        self.library.cuda_shim_launches.restype = ctypes.c_int64
        self.library.cuda_shim_atomics.restype = ctypes.c_int64

    def launches(self) -> int:
        return self.library.cuda_shim_launches()

    def atomics(self) -> int:
        return self.library.cuda_shim_atomics()

    @contextmanager
    def running(self, order: str) -> Iterator[None]:
        """Within, every op that has a CUDA kernel runs it for tensors on the CPU, the threads of a block in `order`."""
        self.library.cuda_shim_order(ORDERS.index(order))
        overrides = torch.library.Library("msr", "IMPL")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            for name in self.ops:
                kernel = cuda_kernel(getattr(torch.ops.msr, name.removeprefix("msr::")).default, order == "forward")
                overrides.impl(name, kernel, "CPU", allow_override=True)
        try:
            yield
        finally:
            overrides._destroy()


def real_kernels() -> bool:
    """Whether msr has loaded its CUDA kernels, beside which there can be no shim."""
    return any(library.name == "_cuda" and library.loaded for library in LIBRARIES)


def cuda_ops() -> set[str]:
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("msr::")]
    return {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")}


def cuda_kernel(op: Any, checked: bool) -> Callable[..., Any]:
    """Return a function that calls the CUDA kernel of `op`, and holds its result against the op's fake if `checked`."""

    def call(*args: Any) -> Any:
        got = op.redispatch(CUDA, *args)
        if checked:
            fake = FakeTensorMode()
            given = tree_map(lambda x: fake.from_tensor(x.detach()) if isinstance(x, Tensor) else x, args)
            with fake:
                expected = op(*given)
            for one, other in zip(flat(got), flat(expected), strict=True):
                assert (one.dtype, one.shape) == (other.dtype, other.shape), op
                assert one.numel() == 0 or one.stride() == other.stride(), op
        return got

    return call


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


_loaded: Shim | None = None


def shim(sanitize: Sequence[str] | None = None) -> Shim:
    """Return the shim, compiled and loaded at the first call; for `sanitize` see build.cuda_kernels."""
    global _loaded
    if _loaded is None:
        _loaded = Shim(build.cuda_kernels(sanitize))
    return _loaded
