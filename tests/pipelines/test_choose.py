"""Which model runs where none is named, and in which precision."""

import pytest
import torch

from msr.models import load_model
from msr.pipelines.choose import choose_model, nearest_scale
from msr.pipelines.job import describe_model


@pytest.mark.parametrize(
    ("kind", "scale", "name"),
    [("video", 2, "video-x2"), ("video", 4, "video-x4"), ("burst", 4, "burst-x4-real"), ("image", 4, "image-x4")],
)
def test_the_default(kind: str, scale: int, name: str) -> None:
    assert describe_model(choose_model((kind,), scale, None).module) == describe_model(load_model(name))


@pytest.mark.parametrize(("factor", "scale"), [(1.0, 2), (1.5, 2), (2.0, 2), (2.1, 4), (4.0, 4), (6.0, 4)])
def test_the_nearest_scale(factor: float, scale: int) -> None:
    assert nearest_scale("video", factor) == scale


@pytest.mark.parametrize(("has", "quicker"), [(False, torch.float32), (True, torch.bfloat16)])
def test_the_quicker_precision(has: bool, quicker: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msr.ops._processor.CPU_MULTIPLIES_BFLOAT16", has)
    assert choose_model(("image",), 4, None, "cpu", "auto").dtype == quicker
    assert choose_model(("image",), 4, None, "cpu").dtype == torch.float32


def test_a_module_runs_where_and_as_it_is() -> None:
    module = load_model("image-x4", dtype=torch.float64)
    chosen = choose_model(("image",), 4, module, "cuda:99", "auto")
    assert (chosen.device.type, chosen.dtype) == ("cpu", torch.float64)
