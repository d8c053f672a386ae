"""Ops: tensors in, tensors out. A PyTorch reference defines each; compiled kernels serve where they are faster."""

import torch

import msr._extension as _extension  # noqa: F401  (first: its kernels override the references registered below)
from msr.ops.conv_pixel_shuffle import conv_pixel_shuffle, conv_pixel_shuffle_reference
from msr.ops.conv_transpose2d import conv_transpose2d, conv_transpose2d_reference
from msr.ops.correlation import correlation, correlation_reference
from msr.ops.correlation_lookup import correlation_lookup, correlation_lookup_reference
from msr.ops.deform_conv2d import deform_conv2d, deform_conv2d_reference
from msr.ops.flow_guided_deform_conv2d import flow_guided_deform_conv2d, flow_guided_deform_conv2d_reference
from msr.ops.flow_warp import flow_warp, flow_warp_reference
from msr.ops.kernel_merge import kernel_merge, kernel_merge_reference
from msr.ops.local_contrast_norm import local_contrast_norm, local_contrast_norm_reference
from msr.ops.resize import resize, resize_reference
from msr.ops.splat import splat, splat_reference

__all__ = [
    "conv_pixel_shuffle",
    "conv_pixel_shuffle_reference",
    "conv_transpose2d",
    "conv_transpose2d_reference",
    "correlation",
    "correlation_lookup",
    "correlation_lookup_reference",
    "correlation_reference",
    "deform_conv2d",
    "deform_conv2d_reference",
    "flow_guided_deform_conv2d",
    "flow_guided_deform_conv2d_reference",
    "flow_warp",
    "flow_warp_reference",
    "kernel_merge",
    "kernel_merge_reference",
    "kernels",
    "local_contrast_norm",
    "local_contrast_norm_reference",
    "resize",
    "resize_reference",
    "splat",
    "splat_reference",
]


def kernels() -> dict[str, tuple[str, ...]]:
    """Return for each op the backends that have a compiled kernel; on any other its reference runs.

    Example:
        >>> from msr.ops import kernels
        >>> sorted(kernels())[0].startswith("msr::")
        True
    """
    names = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("msr::"))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name: tuple(key for key in ("CPU", "CUDA") if has_kernel(name, key)) for name in names}
