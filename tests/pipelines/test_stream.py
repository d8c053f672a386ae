"""The stream: its state can be saved anywhere, scenes do not touch each other, tiles shrink when memory is out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from made import picture
from pipelines.networks import Running, stirred
from torch import Tensor, nn

from msr import io
from msr.errors import InputError, WorkError
from msr.ops import flow_warp, resize
from msr.pipelines.choose import choose_model
from msr.pipelines.scenes import thumbnail
from msr.pipelines.stream import Stream, StreamState
from msr.pipelines.tiling import out_of_memory

SIZE = (40, 56)


class Counting(Running):
    """A network with little memory: it takes at most ``most`` pixels at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.failures = most, 0

    def step(self, frame: Tensor, future: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        if frame.shape[-1] * frame.shape[-2] > self.most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().step(frame, future, state)


def scene(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> list[Tensor]:
    """A textured picture that moves by a pixel a frame, ``(1, 3, H, W)`` each."""
    coarse = picture(*size, seed=seed).astype(np.float32) / 255
    fine = np.random.default_rng(seed).uniform(-0.1, 0.1, coarse.shape).astype(np.float32)
    still = np.clip(coarse + fine, 0, 1)
    return [torch.from_numpy(np.roll(still, i, 1).copy()).permute(2, 0, 1)[None] for i in range(count)]


def run(
    model: nn.Module, frames: list[Tensor], *, state: StreamState | None = None, tile: int = 1000, cuts: bool = True
) -> list[Tensor]:
    stream: Stream[int] = Stream(choose_model(("video",), None, model), tuple(frames[0].shape[-2:]), tile, state)
    results = []
    for index, frame in enumerate(frames):
        results += list(stream.feed(frame, thumbnail(frame[0].mean(0)) if cuts else None, index))
    results += list(stream.end())
    assert [tag for tag, _ in results] == list(range(len(frames)))
    return [result for _, result in results]


@pytest.mark.parametrize(
    ("chunk", "count", "backward_blocks"), [(1, 7, 0), (2, 7, 0), (3, 7, 0), (7, 7, 0), (1, 4, 1), (4, 13, 1)]
)
def test_chunks_through_a_saved_state_are_the_whole_clip(
    chunk: int, count: int, backward_blocks: int, tmp_path: Path
) -> None:
    model = stirred("video", scale=2, offset_groups=2, backward_blocks=backward_blocks)
    frames = scene(count)
    whole = model(torch.stack(frames, 1))[0]
    results: list[Tensor] = []
    state = None
    while len(results) < len(frames):
        stream: Stream[int] = Stream(choose_model(("video",), None, model), SIZE, None, state)
        done = len(results)
        for index in range(done, len(frames)):
            results += [result for _, result in stream.feed(frames[index], thumbnail(frames[index][0].mean(0)), index)]
            if len(results) >= done + chunk:
                break
        else:
            results += [result for _, result in stream.end()]
        stream.state.save(tmp_path / "state.safetensors")
        state = StreamState.load(tmp_path / "state.safetensors")
        assert state.frames == len(results)
    # Two recurrences of random weights carry on the rounding of flows that were found alone or together.
    tolerance = 3e-5 if backward_blocks else 1e-5
    for result, expected in zip(results, whole, strict=True):
        torch.testing.assert_close(result[0], expected, atol=tolerance, rtol=0)


def test_tiles_of_a_pass_back_in_time() -> None:
    model = stirred("video", scale=2, offset_groups=2, backward_blocks=1)
    frames = scene(13)
    whole = run(model, frames)
    for tiled, expected in zip(run(model, frames, tile=32), whole, strict=True):
        torch.testing.assert_close(tiled, expected, atol=1e-3, rtol=0)  # attention sees a tile, not the picture


def test_a_state_of_another_size_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    model = choose_model(("video",), None, stirred("video", scale=2, offset_groups=2))
    stream: Stream[int] = Stream(model, SIZE)
    # The first waits for the two that it is warmed up on, the second for the third.
    assert [len(list(stream.feed(frame, None, 5))) for frame in scene(3)] == [0, 0, 2]
    with pytest.raises(InputError, match="does not fit frames of 31x40"):
        Stream(model, (40, 31), None, stream.state)
    stream.state.save(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"a\.safetensors: not a sound state"):
        StreamState.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("model", [Running(), stirred("video", scale=2, offset_groups=2)], ids=["running", "msr"])
def test_scenes_do_not_touch_each_other(model: nn.Module) -> None:
    first, second = scene(5), scene(4, seed=7)
    joined = run(model, first + second)
    for result, alone in zip(joined, run(model, first) + run(model, second), strict=True):
        torch.testing.assert_close(result, alone, atol=1e-6, rtol=0)
    # The cut is what does it: without it both sides of it are others.
    careless = run(model, first + second, cuts=False)
    for index in (4, 5):
        assert (careless[index] - joined[index]).abs().max() > 1e-3


def test_when_memory_is_out_tiles_are_halved_and_no_frame_is_lost() -> None:
    frames = scene(4, size=(120, 150))
    model = Counting(most=8000)
    told: list[str] = []
    stream: Stream[int] = Stream(choose_model(("video",), None, model), (120, 150), None, None, told.append)
    results = [result for i, frame in enumerate(frames) for _, result in stream.feed(frame, None, i)]
    results += [result for _, result in stream.end()]
    assert told == [
        "out of memory at frame 0: going on with tiles of 72 pixels",
    ]
    assert model.failures == 1
    for result, expected in zip(results, run(Running(), frames, cuts=False), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_memory_that_runs_out_later_leaves_the_state_whole() -> None:
    """The third frame does not fit any more: it is repeated in tiles, with the state that the second left."""
    frames = scene(5, size=(120, 150))
    model = Counting(most=10**6)
    stream: Stream[int] = Stream(choose_model(("video",), None, model), (120, 150))
    results = []
    for index, frame in enumerate(frames):
        model.most = 10**6 if index < 3 else 8000
        results += [result for _, result in stream.feed(frame, None, index)]
    results += [result for _, result in stream.end()]
    assert model.failures == 1
    assert stream.state.tile == 72
    for result, expected in zip(results, run(Running(), frames, cuts=False), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_when_even_small_tiles_do_not_fit_the_error_says_so() -> None:
    with pytest.raises(WorkError, match="out of memory, even with tiles of 32 pixels a side"):
        run(Counting(most=10), scene(2))


def test_memory_that_an_op_lacks_is_told_from_other_errors() -> None:
    far_too_large = torch.zeros(1, 1, 1, 1).expand(1, 2**34, 64, 64)  # 2^48 bytes: more than any process can have
    for call in (
        lambda: flow_warp(far_too_large, torch.zeros(1, 2, 64, 64)),
        lambda: resize(far_too_large, scale=2),
        lambda: torch.empty(far_too_large.shape),
    ):
        with pytest.raises(RuntimeError) as caught:
            call()
        assert out_of_memory(caught.value), caught.value


def test_other_errors_are_not_taken_for_memory() -> None:
    class Broken(Running):
        def step(self, frame: Tensor, future: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(Broken(), scene(2))


def trained_tiles(halo: int | None) -> float:
    """Largest difference, of 255, that tiles make with the weights that ship, on the clip of the examples."""
    chosen = choose_model(("video",), 4, "video-x4")
    chosen = chosen if halo is None else dataclasses.replace(chosen, halo=halo)
    with io.open_clip(Path(__file__).parents[2] / "examples" / "clip.mp4") as clip:
        source = [frame.pixels for _, frame in zip(range(3), clip, strict=False)]
    frames = [torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 for pixels in source]
    results = []
    for tile in (1000, 64):
        stream: Stream[None] = Stream(chosen, tuple(frames[0].shape[-2:]), tile)
        results.append([large for frame in frames for _, large in stream.feed(frame, None, None)])
    return max(float((a.clamp(0, 1) - b.clamp(0, 1)).abs().max()) * 255 for a, b in zip(*results, strict=True))


def test_tiles_of_the_model_that_ships_differ_by_less_than_a_code_value() -> None:
    assert trained_tiles(None) <= 1.0
    # Without what a tile reads around itself it would be seen.
    assert trained_tiles(0) > 2.0
