"""Bursts merge to one picture, from memory."""

import numpy as np
import pytest
import torch
from made import picture
from pipelines.networks import Weighted, stirred
from pipelines.shots import FRAMES

import msr
from msr.errors import InputError
from msr.io import convert_depth


@pytest.mark.parametrize("model", [Weighted(), stirred("burst", scale=2, offset_groups=2)], ids=["weighted", "msr"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_result_is_the_model_s(model: torch.nn.Module, count: int) -> None:
    stack = torch.from_numpy(np.stack(FRAMES[:count])).permute(0, 3, 1, 2)[None].float() / 255
    expected = model(stack)[0].permute(1, 2, 0).clamp(0, 1).numpy()
    result = msr.merge_burst(FRAMES[:count], model=model)
    assert (result.shape, result.dtype) == ((96, 128, 3), np.uint8)
    np.testing.assert_allclose(result / 255, expected, atol=0.51 / 255)


def test_the_first_frame_is_the_base_and_the_others_have_no_order() -> None:
    model = stirred("burst", scale=2, offset_groups=2)
    result = msr.merge_burst(FRAMES, model=model).astype(int)
    again = msr.merge_burst([FRAMES[0], *FRAMES[:0:-1]], model=model)
    assert np.abs(again - result).max() <= 1
    assert np.abs(msr.merge_burst(FRAMES[::-1], model=model) - result).max() > 5


def test_tiles_give_the_whole_picture() -> None:
    frames = [convert_depth(np.roll(picture(70, 90), i, 1), "float32") for i in range(3)]
    whole, tiled = (msr.merge_burst(frames, model=Weighted(), tile=tile) for tile in (1000, 32))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_kinds_are_kept() -> None:
    gray = msr.merge_burst([convert_depth(frame[..., 0], "uint16") for frame in FRAMES], model=Weighted())
    assert (gray.shape, gray.dtype) == ((96, 128), np.uint16)
    tensor = msr.merge_burst([torch.from_numpy(frame).permute(2, 0, 1) for frame in FRAMES], model=Weighted())
    assert tuple(tensor.shape) == (3, 96, 128)


def test_frames_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match="at least one"):
        msr.merge_burst([], model=Weighted())
    with pytest.raises(InputError, match="frame 1 is 30x48, expected 64x48"):
        msr.merge_burst([FRAMES[0], FRAMES[1][:, :30]], model=Weighted())
    with pytest.raises(InputError, match="frame 2 has channels 1"):
        msr.merge_burst([FRAMES[0], FRAMES[1], FRAMES[2][..., 0]], model=Weighted())
