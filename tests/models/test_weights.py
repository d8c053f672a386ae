"""Weights files: a round trip, and files that no one should trust."""

import itertools
import json
import os
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import cv2
import pytest
import safetensors.torch
import torch

from msr.degradation import degrade_bd, degrade_bi, to_tensor
from msr.errors import InputError, WorkError
from msr.metrics import psnr
from msr.models import ImageModel, ModelCard, available_models, build_model, load_model, save_model

ARGUMENTS: dict[str, Any] = {"scale": 2, "phase": "corner", "channels": 8, "blocks": 1}


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model("image", ARGUMENTS).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture
def weights(tmp_path: Path, model: torch.nn.Module) -> Path:
    path = tmp_path / "mine.safetensors"
    save_model(model, "image", ARGUMENTS, path)
    return path


def rewritten(path: Path, change: Any) -> Path:
    """The file again, after ``change(tensors, description)``."""
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["msr"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    change(tensors, description)
    other = path.with_name("other.safetensors")
    safetensors.torch.save_file(tensors, other, {"msr": json.dumps(description)})
    return other


def refusal(path: str | Path) -> str:
    """The one sentence with which a file is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 250
    return message


@pytest.mark.parametrize("kind", ["image", "video", "burst"])
@pytest.mark.parametrize("half", [True, False])
def test_round_trip(kind: str, half: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {**ARGUMENTS, "upsampler": "deconvolution"}
    model = build_model(kind, arguments)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    path = tmp_path / "mine.safetensors"
    save_model(model, kind, arguments, path, half=half)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]
    loaded = load_model(path)
    assert type(loaded) is type(model)
    assert (loaded.kind, loaded.scale, loaded.phase) == (kind, 2, "corner")
    assert not loaded.training
    for (name, found), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert found.dtype == torch.float32, name
        assert not found.requires_grad, name
        torch.testing.assert_close(found, expected.detach(), rtol=1e-3 if half else 0, atol=1e-6 if half else 0)


def test_numbers_too_large_for_float16(tmp_path: Path, model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.head.bias[0] = 1e6  # type: ignore[union-attr, index]
    path = tmp_path / "large.safetensors"
    save_model(model, "image", ARGUMENTS, path)
    loaded = load_model(path)
    assert torch.equal(loaded.head.bias, model.head.bias)  # type: ignore[union-attr, arg-type]
    assert torch.equal(loaded.head.weight, model.head.weight.half().float())  # type: ignore[union-attr, operator]
    before = path.read_bytes()
    for value in (float("inf"), float("nan")):
        with torch.no_grad():
            model.head.bias[0] = value  # type: ignore[union-attr, index]
        with pytest.raises(WorkError, match=r"cannot write .*: the tensor head\.bias is not of finite numbers"):
            save_model(model, "image", ARGUMENTS, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_have_the_mode_of_any_file(mask: int, tmp_path: Path, model: torch.nn.Module) -> None:
    before = os.umask(mask)
    try:
        save_model(model, "image", ARGUMENTS, tmp_path / "mine.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "mine.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_loaded_weights_give_what_the_model_gave(weights: Path, model: torch.nn.Module) -> None:
    x = torch.rand(1, 3, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(str(weights))(x), model(x), rtol=0, atol=2e-3)


def test_device_and_dtype(weights: Path, device: torch.device) -> None:
    loaded = load_model(weights, device=device, dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in loaded.parameters()} == {(device.type, torch.bfloat16)}
    assert loaded(torch.rand(1, 3, 4, 4, device=device)).dtype == torch.float32


def test_the_file_may_change_once_it_is_loaded(tmp_path: Path, model: torch.nn.Module) -> None:
    path = tmp_path / "mine.safetensors"
    save_model(model, "image", ARGUMENTS, path, half=False)
    loaded = load_model(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    torch.testing.assert_close(loaded.head.weight, model.head.weight.detach())  # type: ignore[union-attr]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError) as caught:
        load_model("image-x5")
    assert "unknown model 'image-x5'" in str(caught.value)
    for card in available_models():
        assert card.name in str(caught.value)


def test_shipped_models_are_what_their_cards_say() -> None:
    for card in available_models():
        model = load_model(card.name)
        assert (model.kind, model.scale, model.phase) == (card.kind, card.scale, card.phase)
        assert sum(p.numel() for p in model.parameters()) == card.parameters


@pytest.mark.parametrize("card", [c for c in available_models() if c.kind != "burst-raw"], ids=lambda card: card.name)
def test_results_reduced_again_are_what_was_given(card: ModelCard) -> None:
    model = load_model(card.name)
    reduce = degrade_bd if card.phase == "corner" else degrade_bi
    photo = cv2.imread(str(Path(__file__).parents[2] / "examples" / "photo-original.png"))
    original = to_tensor(photo[:192, :192, ::-1].copy())[None]
    given = reduce(original, card.scale).clamp(0, 1)
    frames = given[:, None].expand(-1, 3, -1, -1, -1)
    with torch.inference_mode():
        result = {"image": lambda: model(given), "video": lambda: model(frames)[:, 1], "burst": lambda: model(frames)}
        back = reduce(result[card.kind]().clamp(0, 1), card.scale)
    shift = (back - given).mean(dim=(0, 2, 3)).abs().max().item()
    assert shift < 0.5 / 255  # no colour is drawn aside
    assert psnr(back, given) > 34.0


@pytest.mark.parametrize("card", [c for c in available_models() if c.kind != "burst-raw"], ids=lambda card: card.name)
def test_flat_saturated_colours_stay_what_they_are(card: ModelCard) -> None:
    """As in logos and drawings: what has seen photos alone may add anything there."""
    model = load_model(card.name)
    colors = torch.tensor([c for c in itertools.product((0.0, 0.25, 0.5, 1.0), repeat=3) if 0.0 in c and 1.0 in c])
    given = colors[:, :, None, None].expand(-1, 3, 16, 16).contiguous()
    frames = given[:, None].expand(-1, 2, -1, -1, -1)
    with torch.inference_mode():
        result = {"image": lambda: model(given), "video": lambda: model(frames)[:, 1], "burst": lambda: model(frames)}
        off = (result[card.kind]().clamp(0, 1) - colors[:, :, None, None]).abs().max().item()
    assert off < {"image": 24, "video": 48, "burst": 24}[card.kind] / 255  # most of it at the border


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such weights file" in refusal(tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert "no such weights file" in refusal(tmp_path / "folder.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        bytes(range(256)) * 40,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 20000) + b"[" * 20000,
    ],
)
def test_garbage(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    assert "not a sound weights file" in refusal(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated(share: float, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    assert "not a sound weights file" in refusal(weights)


def test_a_pickle_under_the_name_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "was-run"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (mark,))

    path = tmp_path / "pickle.safetensors"
    path.write_bytes(pickle.dumps(Attack()))
    refusal(path)
    torch.save({"model": Attack()}, path)
    refusal(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Attack()))
    assert mark.exists()  # so it would have shown


def test_without_description(weights: Path) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights)
    assert "does not say which msr model" in refusal(weights)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"image"', '{"kind": "image"}', '{"kind": "image", "arguments": 4}', "[" * 100000]
)
def test_description_that_is_none(text: str, weights: Path) -> None:
    safetensors.torch.save_file(safetensors.torch.load_file(weights), weights, {"msr": text})
    assert "not a sound weights file" in refusal(weights)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "audio"}, "kind must be one of"),
        ({"kind": ["image"]}, "kind must be one of"),
        ({"arguments": {"depth": 4}}, "does not take the arguments"),
        ({"arguments": {**ARGUMENTS, "scale": 7}}, "scale must be"),
        ({"arguments": {**ARGUMENTS, "scale": "2"}}, "scale must be"),
        ({"arguments": {**ARGUMENTS, "phase": "middle"}}, "phase must be"),
        ({"arguments": {**ARGUMENTS, "phase": ["corner"]}}, "phase must be"),
        ({"arguments": {**ARGUMENTS, "upsampler": {}}}, "upsampler must be"),
        ({"arguments": {**ARGUMENTS, "channels": -8}}, "channels must be"),
        ({"arguments": {**ARGUMENTS, "channels": 10**30}}, "channels must be"),
        ({"arguments": {**ARGUMENTS, "channels": 16}}, "has the shape"),
        ({"arguments": {**ARGUMENTS, "blocks": 2}}, "lacks the tensor trunk.blocks.1"),
        ({"kind": "video", "arguments": {**ARGUMENTS, "offset_groups": 0}}, "offset_groups must be"),
        ({"kind": "video"}, "lacks the tensor"),
    ],
)
def test_wrong_description(change: dict[str, Any], said: str, weights: Path) -> None:
    assert said in refusal(rewritten(weights, lambda _, description: description.update(change)))


def test_a_huge_declared_network_costs_no_memory(weights: Path) -> None:
    # All within the limits, and yet gigabytes if they were built.
    huge = {"arguments": {**ARGUMENTS, "channels": 512, "blocks": 256}}
    path = rewritten(weights, lambda _, description: description.update(huge))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "has the shape" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float, weights: Path) -> None:
    path = rewritten(weights, lambda tensors, _: tensors["head.weight"].view(-1)[3:4].fill_(value))
    assert "head.weight is not of finite numbers" in refusal(path)


def test_tensors_that_do_not_fit(weights: Path) -> None:
    assert "lacks the tensor head.bias" in refusal(rewritten(weights, lambda t, _: t.pop("head.bias")))
    extra = rewritten(weights, lambda t, _: t.update(extra=torch.ones(2)))
    assert "has no tensor extra" in refusal(extra)
    whole = rewritten(weights, lambda t, _: t.update({"head.bias": torch.ones(8, dtype=torch.int32)}))
    assert "head.bias is not of finite numbers" in refusal(whole)
    scalar = rewritten(weights, lambda t, _: t.update({"head.bias": torch.tensor(1.0)}))
    assert "head.bias has the shape ()" in refusal(scalar)


def test_nothing_is_left_of_a_failed_save(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot write"):
        save_model(ImageModel(channels=8, blocks=1), "image", ARGUMENTS, tmp_path / "none" / "mine.safetensors")
    assert list(tmp_path.iterdir()) == []
