"""The configurations in examples/training: one for every model that ships, and for all that it begins from."""

from pathlib import Path

import pytest

from msr.models import ModelCard, available_models, build_model
from msr.train.config import load_config

FOLDER = Path(__file__).parents[2] / "examples" / "training"


@pytest.mark.parametrize("card", available_models(), ids=lambda card: card.name)
def test_every_model_that_ships_has_its_configuration(card: ModelCard) -> None:
    config = load_config(FOLDER / f"{card.name}.toml")
    assert (config.kind, config.degradation.name) == (card.kind, card.degradation)
    assert config.train.output == f"{card.name}.safetensors"
    assert config.train.steps == card.steps
    model = build_model(config.kind, config.model)
    assert (model.scale, model.phase) == (card.scale, card.phase)
    assert sum(p.numel() for p in model.parameters()) == card.parameters


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_what_a_configuration_begins_from_has_one(path: Path) -> None:
    config = load_config(path)
    assert config.train.output == f"{path.stem}.safetensors"
    for source in config.train.init:
        assert (FOLDER / source).with_suffix(".toml").is_file()
        assert source != config.train.output
