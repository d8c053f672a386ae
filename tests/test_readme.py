"""What README shows is what there is."""

import re
import shlex
from pathlib import Path

import pytest

from msr.commands import make_parser
from msr.train.config import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_example_of_the_ops_runs() -> None:
    (code,) = (block for block in blocks("python") if "msr.ops" in block)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["large"].shape == (1, 3, 360, 640)  # type: ignore[attr-defined]


def test_example_of_a_training_configuration_is_accepted(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    path = tmp_path / "image.toml"
    path.write_text(text)
    config = load_config(path)
    assert config.kind == "image"
    assert config.train.output == "image-x4.safetensors"


COMMANDS = [line.split("#")[0] for block in blocks("sh") for line in block.splitlines() if line.startswith("msr ")]
for document in (README, (ROOT / "docs" / "figures.md").read_text(), (ROOT / "docs" / "protocols.md").read_text()):
    COMMANDS += [command for command in re.findall(r"`(msr eval [^`]+)`", document) if "NAME" not in command]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_arguments_that_msr_takes(command: str) -> None:
    options = make_parser().parse_args(shlex.split(command)[1:])
    assert callable(options.run)


def test_files_that_the_documents_name_exist() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "docs/figures.md"):
        text = (ROOT / document).read_text()
        for name in re.findall(r"`((?:msr|csrc|tests|benchmarks|examples|docs)/[\w./-]+)`", text):
            assert "NAME" in name or (ROOT / name).exists(), f"{document} names {name}"
