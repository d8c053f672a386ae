"""Muon: what a step is, and which weights take it."""

import math

import pytest
import torch
from torch import nn

from msr.models import build_model
from msr.train.optimizer import Muon, make_optimizers, orthogonalized


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)])
def test_orthogonalized_keeps_the_directions_alone(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 100.0
    result = orthogonalized(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ result @ v.T  # diagonal where the singular vectors are those of the matrix
    assert (core - core.diag().diag()).abs().max() < 1e-3
    assert 0.6 < core.diag().min() <= core.diag().max() < 1.3
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_step_by_hand(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(8, 9, 3, 3, generator=generator)
    weight = nn.Parameter(before.clone().contiguous(memory_format=memory_format))
    optimizer = Muon([weight], lr=0.01)
    mean, expected = torch.zeros_like(before), before.clone()
    for _ in range(2):
        gradient = torch.randn(before.shape, generator=generator)
        weight.grad = gradient.contiguous(memory_format=memory_format)
        optimizer.step()
        mean = 0.95 * mean + 0.05 * gradient
        change = orthogonalized((0.05 * gradient + 0.95 * mean).reshape(8, 81))
        expected -= 0.01 * 0.2 * math.sqrt(81) * change.reshape(8, 9, 3, 3)
        torch.testing.assert_close(weight.detach(), expected)
    step = (expected - before).square().mean().sqrt().item()
    assert 0.01 * 0.2 * 0.6 < step < 2 * 0.01 * 0.2 * 1.3  # as long as steps of Adam are


def test_what_has_no_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(8, 8, 3, 3))
    Muon([weight]).step()
    assert torch.equal(weight, torch.ones(8, 8, 3, 3))


def test_which_weights_take_it() -> None:
    model = build_model("image", {"channels": 8, "blocks": 1})
    named = list(model.named_parameters())
    trunk = {"trunk.blocks.0.conv1.weight", "trunk.blocks.0.conv2.weight", "trunk.last.weight"}
    optimizers = make_optimizers(named, {"trunk.last.weight", "head.weight"}, "muon", 0.5, 3.0)
    rates = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = next(k for k, p in named if p is parameter)
                assert isinstance(optimizer, Muon) == (name in trunk)
                rates[name] = group["rate"]
    assert rates.keys() == {k for k, _ in named}
    assert rates["trunk.last.weight"] == 1.5
    assert rates["trunk.blocks.0.conv1.weight"] == 3.0
    assert rates["head.weight"] == 0.5
    assert rates["upsampler.weight"] == 1.0
    (adam,) = make_optimizers(named, set(), "adam", 0.5, 3.0)
    assert isinstance(adam, torch.optim.Adam)
    assert sum(len(group["params"]) for group in adam.param_groups) == len(named)
