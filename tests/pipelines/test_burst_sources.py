"""A burst's frames are found and checked before they are decoded."""

from pathlib import Path

import numpy as np
import pytest
from made import clip, dng, picture

from msr import io
from msr.errors import InputError
from msr.pipelines import burst_sources as module
from msr.pipelines.burst_sources import burst_sources


def shots(folder: Path, count: int = 3, name: str = "{}.png") -> list[Path]:
    paths = [folder / name.format(index) for index in range(count)]
    for index, path in enumerate(paths):
        io.write_image(path, np.roll(picture(), index, 1))
    return paths


@pytest.mark.parametrize("name", ["{}.png", "{}.jpg", "{}.tif", "{}.webp"])
def test_files_and_folders(tmp_path: Path, name: str) -> None:
    paths = shots(tmp_path, 12, name)
    for given in (paths, [tmp_path]):
        sources = burst_sources(given)
        assert [source.name for source in sources] == [str(path) for path in paths]  # 10 after 9
        assert {source.size for source in sources} == {(64, 48)}
        assert all(source.load_raw is None for source in sources)
    np.testing.assert_array_equal(sources[2].load().pixels, io.read_image(paths[2]).pixels)


def test_raw_files(tmp_path: Path) -> None:
    paths = [dng(tmp_path / f"{index}.dng", (0.1 * index, 0.2, 0.3), orientation=6) for index in range(2)]
    sources = burst_sources(paths)
    assert [source.size for source in sources] == [(32, 48)] * 2
    load = sources[1].load_raw
    assert load is not None
    assert load().mosaic.shape == (32, 48)
    developed = sources[1].load()
    assert developed.pixels.shape == (48, 32, 3)
    assert developed.exif is not None


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = shots(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(module.io, "read_image", lambda path: read.append(path))
    sources = burst_sources(paths)
    assert read == []
    sources[1].load()
    assert read == [paths[1]]


def test_a_copy_counts_once(tmp_path: Path) -> None:
    paths = shots(tmp_path)
    (tmp_path / "copy.png").write_bytes(paths[1].read_bytes())
    notes: list[str] = []
    sources = burst_sources([*paths, tmp_path / "copy.png"], notes.append)
    assert len(sources) == 3
    assert notes == [f"{tmp_path / 'copy.png'} is a copy of {paths[1]} and is left out"]


@pytest.mark.parametrize(("count", "used"), [(4, 4), (module.CLIP_FRAMES + 3, module.CLIP_FRAMES)])
def test_a_clip_is_a_burst_of_its_first_frames(tmp_path: Path, count: int, used: int) -> None:
    notes: list[str] = []
    sources = burst_sources([clip(tmp_path / "a.mp4", count)], notes.append)
    assert (len(sources), len(notes)) == (used, int(count > used))
    assert sources[1].name == f"{tmp_path / 'a.mp4'}, frame 1"
    first, third = (sources[index].load().pixels for index in (0, 3))
    assert (first.shape, first.dtype, sources[0].size) == ((48, 64, 3), np.uint8, (64, 48))
    assert np.abs(first.astype(int) - picture()).mean() < 6
    assert np.abs(third.astype(int) - np.roll(picture(), 3, 1)).mean() < 6


def test_frames_of_another_size_or_turned_are_named(tmp_path: Path) -> None:
    paths = shots(tmp_path)
    io.write_image(paths[1], picture(20, 30))
    with pytest.raises(InputError, match=r"1\.png is 30x20, expected 64x48 as .*0\.png"):
        burst_sources(paths)
    io.write_image(paths[1], picture(64, 48))
    with pytest.raises(InputError, match=r"1\.png is 48x64 \(it is turned\), expected 64x48"):
        burst_sources(paths)


def test_raw_photos_among_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.dng is RAW and .*0\.png is not"):
        burst_sources([*shots(tmp_path), dng(tmp_path / "a.dng")])


def test_what_is_no_burst_is_named(tmp_path: Path) -> None:
    paths = shots(tmp_path)
    with pytest.raises(InputError, match="no input"):
        burst_sources([])
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        burst_sources([*paths, tmp_path / "none.png"])
    with pytest.raises(InputError, match=r"a\.mp4 is a clip"):
        burst_sources([*paths, clip(tmp_path / "a.mp4", 2)])
    paths[1].write_bytes(paths[1].read_bytes()[:10])
    with pytest.raises(InputError, match=r"1\.png is damaged"):
        burst_sources(paths)
    (tmp_path / "a.dng").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"a\.dng is not a RAW photo"):
        burst_sources([tmp_path / "a.dng"])
