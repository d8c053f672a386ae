"""Learned upsamplers: sizes, the silent start, and agreement with PyTorch's own operators."""

import pytest
import torch
from torch.nn import functional as F

from msr.nn.upsampling import DeconvolutionUpsampler, SubPixelUpsampler, add_detail, make_upsampler


@pytest.mark.parametrize("name", ["subpixel", "deconvolution"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(5, 7), (1, 1)])
def test_shape_and_silent_start(name: str, scale: int, size: tuple[int, int]) -> None:
    upsampler = make_upsampler(name, 8, scale)  # type: ignore[arg-type]
    out = upsampler(torch.rand(2, 8, *size))
    assert out.shape == (2, 3, size[0] * scale, size[1] * scale)
    assert out.abs().max().item() == 0.0


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_agreement_with_pytorch(scale: int) -> None:
    x = torch.rand(2, 8, 5, 6)
    subpixel, deconvolution = SubPixelUpsampler(8, scale), DeconvolutionUpsampler(8, scale)
    with torch.no_grad():
        for p in [*subpixel.parameters(), *deconvolution.parameters()]:
            p.normal_(std=0.1)
        expected = F.pixel_shuffle(F.conv2d(x, subpixel.weight, subpixel.bias, padding=1), scale)
        torch.testing.assert_close(subpixel(x), expected, rtol=1e-4, atol=1e-5)
        weight, bias = deconvolution.weight, deconvolution.bias
        expected = F.conv_transpose2d(x, weight, bias, stride=scale, padding=4, output_padding=scale - 1)
        torch.testing.assert_close(deconvolution(x), expected, rtol=1e-4, atol=1e-5)


def test_deconvolution_is_centred_on_the_input_pixel() -> None:
    upsampler = DeconvolutionUpsampler(1, 4)
    with torch.no_grad():
        upsampler.weight[:, :, 4, 4] = 1.0
        out = upsampler(torch.eye(3).view(1, 1, 3, 3))
    assert out[0, 0].nonzero().tolist() == [[0, 0], [4, 4], [8, 8]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("height", [1, 64, 130])
def test_detail_is_added_in_place_at_the_precision_of_the_picture(dtype: torch.dtype, height: int) -> None:
    base, detail = torch.rand(2, 3, height, 7), torch.rand(2, 3, height, 7).to(dtype)
    expected = base + detail.float()
    assert add_detail(base, detail) is base
    assert torch.equal(base, expected)
    detail.requires_grad_()
    add_detail(base, detail).sum().backward()
    assert detail.grad is not None
    assert detail.grad.eq(1).all()


def test_detail_is_added_to_what_has_a_gradient() -> None:
    base = torch.rand(1, 3, 130, 4, requires_grad=True)
    add_detail(base * 1.0, torch.rand(1, 3, 130, 4, dtype=torch.bfloat16)).sum().backward()
    assert torch.equal(base.grad, torch.ones_like(base))


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="'subpixel' or 'deconvolution', got 'bilinear'"):
        make_upsampler("bilinear", 8, 2)  # type: ignore[arg-type]
