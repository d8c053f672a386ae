"""Configurations: what is read, and one sentence for each thing that is wrong."""

from pathlib import Path

import pytest

from msr.errors import InputError
from msr.train.config import load_config
from msr.train.loop import train

GOOD = """
[model]
kind = "video"
scale = 2
channels = 8

[data]
photos = "photos"
clips = "clips"
clip_shrink = 3

[degradation]
name = "box"
noise = 0.01

[train]
output = "out/mine.safetensors"
init = ["image-x4"]
steps = 7
frames = 5
flow_weight = 0.05
flow_only = true
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_good(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.kind == "video"
    assert config.model == {"scale": 2, "channels": 8}
    assert (config.data.photos, config.data.clips, config.data.clip_shrink) == ("photos", "clips", 3)
    assert (config.degradation.name, config.degradation.noise) == ("box", 0.01)
    assert config.train.init == ("image-x4",)
    assert (config.train.steps, config.train.frames, config.train.flow_only) == (7, 5, True)
    assert config.train.loss == "charbonnier"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[model]", "[modle]", "unknown table or setting 'modle'"),
        ("\n[model]", "steps = 4\n[model]", "unknown table or setting 'steps'"),
        ('kind = "video"', 'kind = "audio"', "kind must be one of image, video, burst, burst-raw, got 'audio'"),
        ('kind = "video"', "", "kind must be one of image, video, burst, burst-raw, got None"),
        ("steps = 7", "step = 7", "[train] has no setting 'step'; it has output, init, init_blocks, steps"),
        ("noise = 0.01", "plain = 1.1", "[degradation] plain must be from 0 to 1, got 1.1"),
        ("noise = 0.01", "h264 = -0.1", "[degradation] h264 must be from 0 to 1, got -0.1"),
        ("noise = 0.01", "sigma = 0.01", "[degradation] has no setting 'sigma'"),
        ("steps = 7", 'steps = "7"', "[train] steps must be a int, got '7'"),
        ("steps = 7", "steps = 7.5", "[train] steps must be a int, got 7.5"),
        ("steps = 7", "steps = true", "[train] steps must be a int, got True"),
        ("flow_only = true", "flow_only = 1", "[train] flow_only must be a bool, got 1"),
        ('init = ["image-x4"]', 'init = "image-x4"', "[train] init must be a list of strings"),
        ('init = ["image-x4"]', "init = [3]", "[train] init must be a list of strings"),
        ("steps = 7", "init_blocks = [true]", "[train] init_blocks must be a list of whole numbers, got [True]"),
        ('photos = "photos"', "photos = 3", "[data] photos must be a str, got 3"),
        ('name = "box"', 'name = "blur"', "[degradation] name must be one of bi, bd, real, box, raw, got 'blur'"),
        ('name = "box"', 'name = "bd"', "[model] phase must be 'corner' for bd, got 'centered'"),
        ("mine.safetensors", "mine.pt", "[train] output must name a .safetensors file"),
        ('photos = "photos"\nclips = "clips"', "", "[data] names neither photos nor clips"),
        ('photos = "photos"', "clip_share = 1.5", "clip_share must be from 0 to 1, got 1.5"),
        ("clip_shrink = 3", "clip_shrink = 0.5", "clip_shrink must be at least 1"),
        ("clip_shrink = 3", "photo_shrink = nan", "photo_shrink must be at least 1"),
        ("noise = 0.01", "noise = -0.1", "noise must not be negative"),
        ("noise = 0.01", "noise = nan", "noise must not be negative"),
        ("steps = 7", "steps = 0", "[train] steps must be at least 1, got 0"),
        ("steps = 7", "batch = 0", "[train] batch must be at least 1"),
        ("steps = 7", "patch = -4", "[train] patch must be at least 1"),
        ("steps = 7", "validate_every = 0", "[train] validate_every must be at least 1"),
        ("frames = 5", "frames = 1", "[train] frames must be at least 2, got 1"),
        ("steps = 7", "learning_rate = inf", "learning_rate must not be negative, got inf"),
        ("steps = 7", "ema = 1.0", "ema must be from 0 to below 1"),
        ("steps = 7", "log_every = 0", "[train] log_every must be at least 1"),
        ("steps = 7", "stages = [0.5, 16, 3]", "stages must be a list of [share, patch, frames]"),
        ("steps = 7", "stages = [[0.5, 16.0, 3]]", "stages must be a list of [share, patch, frames]"),
        ("steps = 7", "stages = [[0.5, 16, 3], [0.4, 24, 3]]", "rising shares between 0 and 1, got 0.4 after 0.5"),
        ("steps = 7", "stages = [[0.5, 16, 1]]", "stages need a patch of 1 and 2 frames at least, got 16 and 1"),
        ("steps = 7", "minutes = 3.0\nstages = [[0.5, 16, 3]]", "stages go by steps, so minutes must be 0"),
        ("steps = 7", 'loss = "l1"', "[train] loss must be one of charbonnier, mse, got 'l1'"),
        ("steps = 7", 'optimizer = "sgd"', "[train] optimizer must be one of adam, muon, got 'sgd'"),
        ("steps = 7", "muon_rate = -1.0", "muon_rate must not be negative, got -1.0"),
        ("flow_weight = 0.05", "", "flow_only needs a video or burst model and a flow_weight above 0"),
        ("steps = 7", "teacher_weight = 1.5", "[train] teacher_weight must be from 0 to 1, got 1.5"),
        ("[model]", "[model", "not a TOML file"),
        ('kind = "video"', 'kind = ["video"]', "kind must be one of image, video, burst, burst-raw, got ['video']"),
        ("steps = 7", f"seed = {2**70}", f"[train] seed must be at most {2**63 - 1}, got {2**70}"),
        ("steps = 7", f"threads = {2**40}", f"[train] threads must be at most 1024, got {2**40}"),
        ("mine.safetensors", ".safetensors", "[train] output must name a .safetensors file"),
    ],
)
def test_wrong_settings(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert GOOD.count(old) == 1
    assert said in refusal(tmp_path, GOOD.replace(old, new))


def test_a_teacher_of_bursts(tmp_path: Path) -> None:
    text = GOOD.replace('kind = "video"', 'kind = "burst"').replace("steps = 7", 'steps = 7\nteacher = "burst-x4"')
    assert "a teacher is for models of kind image or video, got burst" in refusal(tmp_path, text)


def test_stages_by_steps(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, GOOD.replace("steps = 7", "steps = 10\nstages = [[0.25, 8, 2], [0.5, 16, 3]]"))
    )
    sizes = [(config.at(step).train.patch, config.at(step).train.frames) for step in range(10)]
    assert sizes == [(8, 2)] * 3 + [(16, 3)] * 2 + [(32, 5)] * 5


def test_tables_that_are_none(tmp_path: Path) -> None:
    assert "[model] must be a table" in refusal(tmp_path, "model = 3")
    assert "[data] must be a table" in refusal(tmp_path, 'data = "photos"\n[model]\nkind = "image"')
    assert "[train] must be a table" in refusal(tmp_path, '[model]\nkind = "image"\n[[train]]\nsteps = 3')


def test_photos_are_needed_for_all_but_video(tmp_path: Path) -> None:
    only_clips = GOOD.replace('photos = "photos"', "")
    assert load_config(write(tmp_path, only_clips)).data.photos == ""
    assert "no photos" in refusal(tmp_path, only_clips.replace('"video"', '"burst"'))


def test_raw_goes_with_raw(tmp_path: Path) -> None:
    assert "raw is for burst-raw alone, got 'box' for burst-raw" in refusal(
        tmp_path, GOOD.replace('"video"', '"burst-raw"')
    )
    assert "raw is for burst-raw alone, got 'raw' for video" in refusal(tmp_path, GOOD.replace('"box"', '"raw"'))


@pytest.mark.parametrize(("name", "phase"), [("bi", "centered"), ("bd", "corner")])
def test_bursts_are_of_box_or_real(name: str, phase: str, tmp_path: Path) -> None:
    text = GOOD.replace('kind = "video"', f'kind = "burst"\nphase = "{phase}"').replace('"box"', f'"{name}"')
    assert f"[degradation] a burst is of box or real, got '{name}'" in refusal(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, content in ((tmp_path / "none.toml", None), (tmp_path, None), (tmp_path / "bytes.toml", b"\xff\xfe\x00")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_config(path)
        assert "\n" not in str(caught.value)


IMAGE = """
[model]
kind = "image"
channels = 8
blocks = 1
[data]
photos = "{photos}"
{more}
[train]
output = "{output}"
patch = 8
bf16 = false
{init}
"""


def run(tmp_path: Path, photos: Path, more: str = "", output: str = "out/mine.safetensors", init: str = "") -> str:
    text = IMAGE.format(photos=photos, more=more, output=tmp_path / output, init=init)
    with pytest.raises(InputError) as caught:
        train(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_and_files_that_do_not_serve(tmp_path: Path) -> None:
    from originals import photo_folder, save, texture

    photos = photo_folder(tmp_path / "photos")
    assert "no such folder of photos" in run(tmp_path, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in run(tmp_path, tmp_path / "empty")
    save(tmp_path / "small" / "a.png", texture(0, 20, 20))
    assert "holds no photo of 48 pixels a side" in run(tmp_path, tmp_path / "small")
    assert "no such folder of photos" in run(tmp_path, photos, f'validation = "{tmp_path / "none"}"')
    assert "unknown model 'none'" in run(tmp_path, photos, init='init = ["none"]')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    assert "a.png" in run(tmp_path, tmp_path / "broken")
    (tmp_path / "file").write_text("in the way")
    assert "cannot be made" in run(tmp_path, photos, output="file/mine.safetensors")


def test_model_arguments_that_there_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGE.format(photos=tmp_path, more="", output=tmp_path / "a.safetensors", init=""))
    for wrong, said in (("channels = 0", "channels must"), ("depth = 4", "does not take"), ("scale = 1", "scale must")):
        path.write_text(path.read_text().replace("channels = 8", wrong))
        with pytest.raises(InputError, match=said):
            train(path)
        path.write_text(path.read_text().replace(wrong, "channels = 8"))
