"""The mean over turns and flips."""

from typing import Any

import pytest
import torch

from msr.models import BurstModel, ImageModel, self_ensemble

SMALL: dict[str, Any] = {"channels": 8, "blocks": 1}


@pytest.fixture
def stirred() -> ImageModel:
    """A model that treats a picture and its mirror image unlike."""
    torch.manual_seed(0)
    model = ImageModel(scale=2, **SMALL).eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
def test_turning_the_picture_turns_the_result(stirred: ImageModel, layout: torch.memory_format) -> None:
    model: Any = self_ensemble(stirred)
    assert (model.kind, model.scale, model.phase, model.halo) == ("image", 2, "centered", stirred.halo)
    x = torch.rand(1, 3, 9, 12).to(memory_format=layout)
    found = model(x)
    for quarters in range(4):
        for flipped in (False, True):
            y, expected = torch.rot90(x, quarters, (-2, -1)), torch.rot90(found, quarters, (-2, -1))
            y, expected = (y.flip(-2), expected.flip(-2)) if flipped else (y, expected)
            torch.testing.assert_close(model(y), expected, rtol=0, atol=1e-5)
    assert (stirred(x.flip(-1)) - stirred(x).flip(-1)).abs().max() > 1e-3  # which the model alone does not


def test_it_is_the_mean_of_eight(stirred: ImageModel) -> None:
    x = torch.rand(2, 3, 7, 5)
    results = [stirred(x), stirred(x.flip(-1)).flip(-1), stirred(x.flip(-2)).flip(-2)]
    results.append(stirred(x.flip(-1, -2)).flip(-1, -2))
    turned = x.transpose(-1, -2)
    results += [stirred(turned), stirred(turned.flip(-1)).flip(-1), stirred(turned.flip(-2)).flip(-2)]
    results.append(stirred(turned.flip(-1, -2)).flip(-1, -2))
    results[4:] = [r.transpose(-1, -2) for r in results[4:]]
    torch.testing.assert_close(self_ensemble(stirred)(x), torch.stack(results).mean(0), rtol=0, atol=1e-5)


def test_what_cannot_be_turned() -> None:
    for model in (BurstModel(**SMALL), ImageModel(phase="corner", **SMALL)):
        with pytest.raises(ValueError, match="only image models of the phase 'centered' can be run on turned pictures"):
            self_ensemble(model)
