"""The contract that every op passes. A test file subclasses OpContract as `Test...` and fills in its samples.

Everything is compared on the CPU, with the compiled kernels where they are loaded (else the op is its reference), and
again with the CUDA kernels run on the CPU (tests/cuda_shim), in three orders of the threads. `--device` chooses one.
"""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from cuda_shim import build
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile

# Largest allowed |difference| / max(1, largest |expected value|). One table for all ops. float16, bfloat16 results are
# compared with the float32 results of the same rounded inputs: what is left is the rounding of the result, and of the
# gradients that are summed in it.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")


@dataclass(frozen=True)
class Sample:
    """One call of an op: float64 tensors (or None) in order, then options by name.

    Attributes:
        tensors: the leading tensor arguments, float64 on the CPU.
        options: the other arguments of the public function.
        coordinates: positions of the tensors that stay float32 when the others become float16 or bfloat16.
        gradcheck: whether finite differences are meaningful here (no kink near the values, not too large).
    """

    tensors: tuple[Tensor | None, ...]
    options: dict[str, Any] = field(default_factory=dict)
    coordinates: tuple[int, ...] = ()
    gradcheck: bool = True

    def to(self, device: torch.device, dtype: torch.dtype) -> list[Tensor | None]:
        """Return the tensors as an op is called with them in `dtype`."""
        low = dtype in (torch.float16, torch.bfloat16)
        dtypes = [torch.float32 if low and n in self.coordinates else dtype for n in range(len(self.tensors))]
        return [None if t is None else t.to(device, d) for t, d in zip(self.tensors, dtypes, strict=True)]


def arrange(tensor: Tensor | None, layout: str) -> Tensor | None:
    """Return the same values in another memory layout; tensors that are not 4-D stay as they are."""
    if tensor is None or tensor.dim() != 4 or layout == "contiguous":
        return tensor
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # a window into something larger, on every axis
        b, c, h, w = tensor.shape
        larger = tensor.new_full((b + 1, c + 2, h + 3, w + 2), float("nan"))
        larger[1:, 1 : c + 1, 2 : h + 2, 1 : w + 1] = tensor
        return larger[1:, 1 : c + 1, 2 : h + 2, 1 : w + 1]
    return tensor.transpose(2, 3).contiguous().transpose(2, 3)  # neither channels nor columns lie next to each other


def assert_close(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare within TOLERANCE[dtype]; shapes must be equal, dtypes may differ."""
    assert got.shape == expected.shape
    if expected.numel() == 0:
        return
    assert torch.isfinite(got).all()
    scale = max(1.0, expected.abs().max().item())
    difference = (got.double() - expected.double()).abs().max().item()
    assert difference <= TOLERANCE[dtype] * scale, f"differs by {difference:.3g} at a scale of {scale:.3g}"


class _Mallinfo2(ctypes.Structure):
    """Of glibc's malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "rest", "top")
    )


def heap_in_use() -> int:
    """Bytes that are allocated of the C heap."""
    count = ctypes.CDLL(None).mallinfo2
    count.restype = _Mallinfo2
    return int(count().uordblks)


class OpContract:
    """Subclass with `op`, `reference`, `name` and `samples` (and `wrong`: calls that must raise ValueError)."""

    op: ClassVar[Callable[..., Tensor]]
    reference: ClassVar[Callable[..., Tensor]]
    name: ClassVar[str]  # in torch.ops.msr
    samples: ClassVar[dict[str, Sample]] = {}
    wrong: ClassVar[dict[str, Callable[[], Any]]] = {}
    cuda_backward: ClassVar[bool] = True  # whether the gradients have a CUDA kernel, too
    takes_autocast: ClassVar[bool] = True  # whether the features take autocast's dtype, as those of a convolution do
    turns_planes: ClassVar[bool] = False  # whether features in planes are first copied into channels_last
    other_size: ClassVar[Sample | None] = None  # the first sample's call for a picture of another size

    @classmethod
    def dispatcher_arguments(cls, tensors: list[Tensor | None], options: dict[str, Any]) -> tuple[Any, ...]:
        """Return the arguments of the registered op for this call; override where it differs from the public one."""
        return (*tensors, *options.values())

    # ---- the shared steps -------------------------------------------------------------------------------------------

    @staticmethod
    def gradients(
        function: Callable[..., Tensor], tensors: list[Tensor | None], options: dict[str, Any]
    ) -> list[Tensor]:
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        out = function(*leaves, **options)
        if not out.requires_grad:  # a reference that had nothing to compute
            assert out.numel() == 0 or not out.any()
            return [torch.zeros_like(t) for t in leaves if t is not None]
        # A fixed, uneven weight for each output, the same whatever the layout.
        weights = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=out.dtype).reshape(out.shape)
        given = [t for t in leaves if t is not None]
        # A reference may leave an input unused (the flow of "nearest"): that is a gradient of zero.
        grads = torch.autograd.grad(out, given, weights, allow_unused=True, materialize_grads=True)
        for leaf, grad in zip(given, grads, strict=True):
            assert grad.dtype == leaf.dtype
            assert grad.shape == leaf.shape
        return list(grads)

    @classmethod
    def has_kernel(cls, device: torch.device) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(f"msr::{cls.name}", device.type.upper())

    def one_is_enough(self, sample: Sample, device: torch.device) -> None:
        """Skip what PyTorch does around an op but for one sample where no kernel is; with kernels all are tried."""
        if not self.has_kernel(device) and sample is not next(iter(self.samples.values())):
            pytest.skip("no kernel here, and another sample was tried")

    # ---- the contract -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_result_is_the_references(self, sample: Sample, layout: str, dtype: torch.dtype, device) -> None:
        tensors = [arrange(t, layout) for t in sample.to(device, dtype)]
        got, expected = self.op(*tensors, **sample.options), self.reference(*tensors, **sample.options)
        assert got.dtype == expected.dtype == dtype
        assert got.stride() == expected.stride()
        assert_close(got, expected, dtype)
        if layout == "channels_last" and got.dim() == 4:
            assert got.is_contiguous(memory_format=torch.channels_last) or tensors[0].is_contiguous()

    @pytest.mark.gradients
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_gradients_are_the_references(self, sample: Sample, layout: str, dtype: torch.dtype, device) -> None:
        tensors = [arrange(t, layout) for t in sample.to(device, dtype)]
        got = self.gradients(self.op, tensors, sample.options)
        expected = self.gradients(self.reference, tensors, sample.options)
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other, dtype)

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_low_precision_is_near_float32(self, sample: Sample, layout: str, dtype: torch.dtype, device) -> None:
        tensors = [arrange(t, layout) for t in sample.to(device, dtype)]
        wide = [None if t is None else t.float() for t in tensors]
        got = self.op(*tensors, **sample.options)
        assert got.dtype == dtype
        assert_close(got, self.reference(*wide, **sample.options), dtype)

    @pytest.mark.gradients
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_low_precision_gradients_are_near_float32(
        self, sample: Sample, layout: str, dtype: torch.dtype, device
    ) -> None:
        tensors = [arrange(t, layout) for t in sample.to(device, dtype)]
        wide = [None if t is None else t.float() for t in tensors]
        got_gradients = self.gradients(self.op, tensors, sample.options)
        for one, other in zip(got_gradients, self.gradients(self.reference, wide, sample.options), strict=True):
            assert_close(one, other, dtype)

    @pytest.mark.once
    def test_opcheck(self, sample: Sample, device) -> None:
        self.one_is_enough(sample, device)
        tensors = [None if t is None else t.requires_grad_() for t in sample.to(device, torch.float32)]
        registered = getattr(torch.ops.msr, self.name).default
        torch.library.opcheck(registered, self.dispatcher_arguments(tensors, sample.options))

    @pytest.mark.once
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_gradcheck(self, sample: Sample, layout: str, device) -> None:
        if not sample.gradcheck or any(t is not None and t.numel() == 0 for t in sample.tensors):
            pytest.skip("finite differences mean nothing for this sample")
        tensors = [arrange(t, layout) for t in sample.to(device, torch.float64)]
        leaves = [t.detach().requires_grad_() for t in tensors if t is not None]

        def call(*given: Tensor) -> Tensor:
            left = iter(given)
            return self.op(*[None if t is None else next(left) for t in tensors], **sample.options)

        # Sums in the kernels may run in any order, hence the small allowance between two calls.
        assert torch.autograd.gradcheck(call, leaves, nondet_tol=1e-10, fast_mode=True)

    @pytest.mark.once
    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_compiles_whole(self, sample: Sample, backend: str, layout: str, device) -> None:
        self.one_is_enough(sample, device)
        if backend == "inductor" and sample is not next(iter(self.samples.values())):
            pytest.skip("one sample through inductor is enough: the op is opaque to it")
        if backend == "inductor" and build.compiler() is None:
            pytest.skip("no C++ compiler for what inductor makes of the code around an op")
        torch.compiler.reset()
        tensors = [arrange(t, layout) for t in sample.to(device, torch.float32)]
        compiled = torch.compile(lambda *given: self.op(*given, **sample.options), fullgraph=True, backend=backend)
        expected = self.op(*tensors, **sample.options)
        got = compiled(*tensors)
        assert got.stride() == expected.stride()
        assert_close(got, expected, torch.float32)
        pairs = zip(
            self.gradients(compiled, tensors, {}), self.gradients(self.op, tensors, sample.options), strict=True
        )
        for one, other in pairs:
            assert_close(one, other, torch.float32)

    @pytest.mark.once
    def test_compiled_once_it_serves_every_size(self, device) -> None:
        """torch.compile(dynamic=True) and torch.export, strict and not, fix none of the sizes of the picture."""
        if self.other_size is None:
            pytest.skip("no sample of another size")
        torch.compiler.reset()
        samples = [next(iter(self.samples.values())), self.other_size]
        calls = [sample.to(device, torch.float32) for sample in samples]
        op, options = self.op, samples[0].options

        def call(*given: Tensor) -> Tensor:
            return op(*given, **options)

        class Module(torch.nn.Module):
            def forward(self, *given: Tensor) -> Tensor:
                return call(*given)

        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
        # Without this, sizes that happen to be equal in the first call are taken to be equal always.
        frames = []
        with torch.fx.experimental._config.patch(use_duck_shape=False):
            for tensors in calls:
                expected = self.gradients(call, tensors, {})
                for one, other in zip(self.gradients(compiled, tensors, {}), expected, strict=True):
                    assert_close(one, other, torch.float32)
                frames.append(counter.frame_count)
        assert frames[0] == frames[1]  # with options that are floats even the first call compiles twice
        auto = torch.export.Dim.AUTO
        sizes = tuple(
            {d: auto for d in range(one.dim()) if one.shape[d] != other.shape[d]}
            for one, other in zip(*calls, strict=True)
        )
        for strict in (False, True):
            exported = torch.export.export(Module(), tuple(calls[0]), dynamic_shapes=(sizes,), strict=strict)
            assert any(f"msr.{self.name}" in str(node.target) for node in exported.graph.nodes)
            for tensors in calls:
                assert_close(exported.module()(*tensors), call(*tensors), torch.float32)

    @pytest.mark.parametrize("features", [torch.float16, torch.float32], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_coordinates_of_another_dtype(self, dtype: torch.dtype, features: torch.dtype, device) -> None:
        """They count as the float32 of the same value, and their gradients have their dtype."""
        sample = next(iter(self.samples.values()))
        if not sample.coordinates:
            pytest.skip("takes no coordinates")
        tensors = sample.to(device, features)
        given = [t.to(dtype) if n in sample.coordinates and t is not None else t for n, t in enumerate(tensors)]
        wide = [t.float() if n in sample.coordinates and t is not None else t for n, t in enumerate(given)]
        # Sums in the kernels may run in any order.
        assert_close(self.op(*given, **sample.options), self.op(*wide, **sample.options), features)
        pairs = zip(
            self.gradients(self.op, given, sample.options),
            self.gradients(self.op, wide, sample.options),
            strict=True,
        )
        for one, other in pairs:
            assert_close(one, other, torch.bfloat16 if dtype == torch.bfloat16 else torch.float16)

    def test_autocast(self, device) -> None:
        """Parameters stay float32 whatever reaches them, and so do coordinates."""
        sample = next(iter(self.samples.values()))
        tensors = sample.to(device, torch.float32)
        for mixed in (False, True):
            given = [t.bfloat16() if mixed and n == 0 and t is not None else t for n, t in enumerate(tensors)]
            if mixed and not self.takes_autocast:
                given = sample.to(device, torch.bfloat16)
            leaves = [None if t is None else t.detach().requires_grad_() for t in given]
            with torch.autocast(device.type, torch.bfloat16):
                out = self.op(*leaves, **sample.options)
            assert out.dtype == (torch.bfloat16 if self.takes_autocast or mixed else torch.float32)
            assert_close(out, self.reference(*tensors, **sample.options), torch.bfloat16)
            wanted = [leaf for leaf in leaves if leaf is not None]
            for leaf, grad in zip(wanted, torch.autograd.grad(out.float().sum(), wanted), strict=True):
                assert grad.dtype == leaf.dtype

    @pytest.mark.once
    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_no_layout_is_copied_into_the_other(self, layout: str, device) -> None:
        """Where a kernel runs: it copies no features, as the profiler sees."""
        if not self.has_kernel(device):
            pytest.skip("no kernel here")
        if self.turns_planes:
            pytest.skip("features in planes are copied into channels_last, as gathering whole pixels pays for that")
        sample = next(iter(self.samples.values()))
        first, *others = sample.to(device, torch.float32)
        tensors = [arrange(first, layout), *others]
        arguments = self.dispatcher_arguments(tensors, sample.options)
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
            getattr(torch.ops.msr, self.name).default(*arguments)
        names = {event.key for event in seen.key_averages()}
        assert f"msr::{self.name}" in names
        assert not names & {"aten::copy_", "aten::clone"}

    @pytest.mark.once
    def test_calls_leave_no_memory_behind(self, device) -> None:
        """As the C library counts it: 48 bytes a call, as conversions of strings lost, add up in a long run."""
        if not hasattr(ctypes.CDLL(None), "mallinfo2"):
            pytest.skip("a C library that does not count")
        if not self.has_kernel(device):
            pytest.skip("no kernel here")
        sample = next(iter(self.samples.values()))
        tensors = sample.to(device, torch.float32)

        def held_after(calls: int) -> int:
            for _ in range(calls):
                self.op(*tensors, **sample.options)
                self.gradients(self.op, tensors, sample.options)
            gc.collect()
            return heap_in_use()

        before = held_after(20)
        assert held_after(400) - before < 400 * 16

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    def test_elements_past_32_bits(self, layout: str, device) -> None:
        """Elements of one image that lie more than 2^31 apart: of 4 GiB a few pages are touched."""
        sample = next(iter(self.samples.values()))
        first, *others = sample.to(device, torch.float16)
        assert first is not None
        _, channels, height, width = first.shape
        step = 2**31 // ((channels if layout == "contiguous" else height) - 1) + 7
        strides = (height * width, step, width, 1) if layout == "contiguous" else (width * channels, 1, step, channels)
        far = torch.empty(2**31 + 2**16, dtype=torch.float16, device=device).as_strided(first.shape, strides)
        far.copy_(first)
        wide = [None if t is None else t.float() for t in (first, *others)]
        got = self.op(far, *others, **sample.options)
        assert_close(got, self.reference(*wide, **sample.options), torch.float16)

    @pytest.mark.once
    def test_two_runs_agree(self, device) -> None:
        """Where deterministic algorithms are asked for, to the last bit."""
        sample = next(iter(self.samples.values()))
        tensors = sample.to(device, torch.float32)
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            runs = [
                [self.op(*tensors, **sample.options), *self.gradients(self.op, tensors, sample.options)]
                for _ in range(2)
            ]
        finally:
            torch.use_deterministic_algorithms(before)
        for one, other in zip(*runs, strict=True):
            assert torch.equal(one, other)

    def test_differentiating_twice_raises(self, device) -> None:
        sample = next(iter(self.samples.values()))
        leaves = [None if t is None else t.requires_grad_() for t in sample.to(device, torch.float64)]
        out = self.op(*leaves, **sample.options)
        grads = torch.autograd.grad(out.square().sum(), [t for t in leaves if t is not None], create_graph=True)
        with pytest.raises(RuntimeError, match="no autograd formula"):
            torch.autograd.grad(sum(g.square().sum() for g in grads), leaves[0])

    @pytest.mark.once
    def test_forward_mode_and_transforms_take_the_reference(self, device) -> None:
        """What no kernel has a derivative for is right or raises: it is never silently zero."""
        sample = next(iter(self.samples.values()))
        given = sample.to(device, torch.float64)
        leaves = [t for t in given if t is not None]
        tangents = [torch.linspace(-1, 1, t.numel(), device=device, dtype=t.dtype).view(t.shape) for t in leaves]

        def called(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def call(*tensors: Tensor) -> Tensor:
                left = iter(tensors)
                return function(*[None if t is None else next(left) for t in given], **sample.options)

            return call

        op, reference = called(self.op), called(self.reference)
        expected = torch.func.jvp(reference, tuple(leaves), tuple(tangents))[1]
        assert expected.any()
        assert_close(torch.func.jvp(op, tuple(leaves), tuple(tangents))[1], expected, torch.float64)
        with forward_ad.dual_level():
            out = op(*(forward_ad.make_dual(t, tangent) for t, tangent in zip(leaves, tangents, strict=True)))
            assert_close(forward_ad.unpack_dual(out).tangent, expected, torch.float64)
        of_sum = [torch.func.grad(lambda *t, f=f: f(*t).square().sum())(*leaves) for f in (op, reference)]
        assert_close(of_sum[0], of_sum[1], torch.float64)

    @pytest.mark.once
    def test_shapes_alone(self, device) -> None:
        """On the device "meta" there is no autocast to ask."""
        sample = next(iter(self.samples.values()))
        tensors = sample.to(torch.device("meta"), torch.float32)
        assert (
            self.op(*tensors, **sample.options).shape
            == self.op(*sample.to(device, torch.float32), **sample.options).shape
        )

    def test_wrong_arguments_raise(self, wrong: Callable[[], Any]) -> None:
        with pytest.raises(ValueError, match="got"):
            wrong()
