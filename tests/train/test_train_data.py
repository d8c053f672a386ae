"""Originals for training: crops of photos within a limit of memory, runs of clips from folders and files."""

from pathlib import Path

import numpy as np
import pytest
from originals import frame_folder, moving, photo_folder, save, texture, video_file

from msr.errors import InputError
from msr.pipelines.published import list_clips
from msr.train.data import ClipSet, PhotoSet, list_photos


def contains(picture: np.ndarray, crop: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(picture, crop.shape)
    return bool((windows == crop).all(axis=(-3, -2, -1)).any())


def test_crops_come_from_the_photos(tmp_path: Path) -> None:
    photos = PhotoSet(photo_folder(tmp_path, 2, 40), minimum=24)
    rng = np.random.default_rng(0)
    originals = [texture(0, 40, 40), texture(1, 40, 56)]
    for _ in range(6):
        crop = photos.crop(24, rng)
        assert crop.shape == (24, 24, 3)
        assert any(contains(original, crop) for original in originals)


def test_the_livelier_of_two_crops_is_taken(tmp_path: Path) -> None:
    half_flat = np.full((64, 256, 3), 128, np.uint8)
    half_flat[:, :128] = texture(0, 64, 128)
    save(tmp_path / "a.png", half_flat)
    photos, rng = PhotoSet(tmp_path, minimum=16), np.random.default_rng(0)
    lively = sum(photos.crop(16, rng).std() > 1.0 for _ in range(200))
    assert 200 * 0.65 < lively < 200 * 0.9  # three quarters, where a single draw would give a half


def test_crops_are_reduced_by_up_to_the_shrink(tmp_path: Path) -> None:
    # A ramp of one level a pixel, so that a crop's slope says by how much it was reduced.
    save(tmp_path / "a.png", np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (60, 200, 3)))
    photos, rng = PhotoSet(tmp_path, minimum=16, shrink=3.0), np.random.default_rng(0)
    slopes = [np.diff(photos.crop(16, rng)[8, :, 0].astype(int)).mean() for _ in range(100)]
    assert 0.95 < min(slopes) < 1.1
    assert 2.8 < max(slopes) < 3.1
    assert 1.5 < np.median(slopes) < 2.0  # all ratios are as likely: the root of 3
    tight = PhotoSet(tmp_path, minimum=16, shrink=100.0)
    assert tight.crop(50, rng).shape == (50, 50, 3)  # out of all 60 rows at most


def test_some_crops_are_drawn(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((60, 60, 3), 77, np.uint8))
    photos, rng = PhotoSet(tmp_path, minimum=16, drawn=0.3), np.random.default_rng(0)
    crops = [photos.crop(16, rng) for _ in range(200)]
    drawn = [crop for crop in crops if (crop != 77).any()]
    assert 40 < len(drawn) < 80
    assert {crop.shape for crop in drawn} == {(16, 16, 3)}
    assert sum(len(np.unique(crop.reshape(-1, 3), axis=0)) == 1 for crop in drawn) > 10  # of one colour
    assert np.mean([(crop == 0).any() and (crop == 255).any() for crop in drawn]) > 0.5  # saturated


def test_cache_stays_within_its_limit(tmp_path: Path) -> None:
    size = 40 * 40 * 3
    for seed in range(5):
        save(tmp_path / f"{seed}.png", texture(seed, 40, 40))
    photos, rng = PhotoSet(tmp_path, minimum=8, cache_bytes=2 * size), np.random.default_rng(0)
    seen = set()
    for _ in range(40):
        seen.add(photos.photo(rng).tobytes())
        assert sum(p.nbytes for p in photos._cache.values()) <= 2 * size
    assert len(seen) == 5
    tiny = PhotoSet(tmp_path, minimum=8, cache_bytes=0)
    for _ in range(5):
        assert tiny.photo(rng).shape == (40, 40, 3)
        assert len(tiny._cache) == 1


def test_photos_below_the_minimum_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "deep" / "small.png", texture(0, 20, 60))
    save(tmp_path / "large.JPG", texture(1, 40, 60))
    (tmp_path / "notes.txt").write_text("not a picture")
    save(tmp_path / ".thumbnails" / "a.png", texture(1, 40, 60))
    assert [p.name for p in list_photos(tmp_path)] == ["small.png", "large.JPG"]
    photos, rng = PhotoSet(tmp_path, minimum=30), np.random.default_rng(0)
    assert all(photos.photo(rng).shape == (40, 60, 3) for _ in range(10))
    with pytest.raises(InputError, match="holds no photo of 50 pixels a side"):
        PhotoSet(tmp_path, minimum=50)


def test_clips_from_a_folder_of_frames(tmp_path: Path) -> None:
    frames = moving(0, 9, 32, 40)
    frame_folder(tmp_path / "clip", frames)
    (tmp_path / "notes.txt").write_text("not a clip")
    clips = ClipSet(tmp_path, length=3, shrink=1.0)
    assert [run.shape for run in clips.runs] == [(6, 32, 40, 3)]
    np.testing.assert_array_equal(clips.runs[0], frames[:6])
    rng, ways = np.random.default_rng(0), set()
    for _ in range(20):
        crop = clips.crop(24, 3, rng)
        assert crop.shape == (3, 24, 24, 3)
        # Consecutive frames, played either way: the texture moves by two pixels.
        forwards = np.array_equal(crop[0][:, 2:], crop[1][:, :-2]) and np.array_equal(crop[1][:, 2:], crop[2][:, :-2])
        backwards = np.array_equal(crop[0][:, :-2], crop[1][:, 2:]) and np.array_equal(crop[1][:, :-2], crop[2][:, 2:])
        assert forwards != backwards
        ways.add(forwards)
    assert ways == {True, False}


def test_clips_from_a_video_file_are_reduced(tmp_path: Path) -> None:
    frames = moving(0, 8, 64, 96)
    video_file(tmp_path / "clip.mp4", frames)
    clips = ClipSet(tmp_path, length=2, shrink=2.0)
    assert [run.shape for run in clips.runs] == [(4, 32, 48, 3)]
    means = frames[:4].reshape(4, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    # Compressed in limited range with halved colours, so only nearly so.
    assert np.abs(clips.runs[0] - means).mean() < 6.0


def test_runs_of_a_long_clip_leave_pauses(tmp_path: Path) -> None:
    frames = moving(0, 14, 16, 16)
    frame_folder(tmp_path / "clip", frames)
    clips = ClipSet(tmp_path, length=2, shrink=1.0)
    assert len(clips.runs) == 2
    np.testing.assert_array_equal(clips.runs[1], frames[8:12])
    assert len(ClipSet(tmp_path, length=2, shrink=1.0, windows=1).runs) == 1


def test_small_clips_among_large_ones_are_left_out(tmp_path: Path) -> None:
    for name, side in (("a", 20), ("b", 40), ("c", 20)):
        frame_folder(tmp_path / name, moving(0, 4, side, 48))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    clips, rng = ClipSet(tmp_path, 2, 1.0, 32), np.random.default_rng(0)
    assert [run.shape for run in clips.runs] == [(4, 40, 48, 3)]
    assert all(clips.crop(32, 2, rng).shape == (2, 32, 32, 3) for _ in range(20))


def test_clips_that_do_not_serve(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder of clips"):
        ClipSet(tmp_path / "none", 3, 1.0)
    frame_folder(tmp_path / "short" / "clip", moving(0, 5, 32, 32))
    with pytest.raises(InputError, match="holds no clip of 6 frames"):
        ClipSet(tmp_path / "short", 3, 1.0)
    frame_folder(tmp_path / "mixed" / "clip", moving(0, 5, 32, 32))
    save(tmp_path / "mixed" / "clip" / "5.png", texture(0, 32, 34))
    with pytest.raises(InputError, match="expected 32x32"):
        ClipSet(tmp_path / "mixed", 3, 1.0)
    for shrink, minimum in ((1.0, 33), (2.0, 17), (1000.0, 2)):
        with pytest.raises(InputError, match=f"holds no clip of 4 frames and {minimum} pixels a side, reduced"):
            ClipSet(tmp_path / "short", 2, shrink, minimum)
    (tmp_path / ".cache").mkdir()
    assert [p.name for p in list_clips(tmp_path)] == ["mixed", "short"]
    with pytest.raises(InputError, match="holds no folders of frames"):
        list_clips(tmp_path / "short" / "clip")
