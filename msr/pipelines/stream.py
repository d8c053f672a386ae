"""A model over the frames of a clip, one after the other, with a state that can be saved."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from msr import io
from msr.errors import InputError, WorkError
from msr.pipelines.choose import Chosen
from msr.pipelines.scenes import Scene, judge
from msr.pipelines.tiling import Canvas, choose_tile, halve_tile, out_of_memory, plan_tiles

Tag = TypeVar("Tag")


@dataclasses.dataclass(frozen=True)
class StreamState:
    """All that the frames up to some point leave to those after it.

    ``model`` holds the tensors of the model's own state for the whole picture, however it was cut into tiles; it is
    empty at the start of a scene. A stream that starts with this state and the next frame goes on as if it had never
    stopped.
    """

    frames: int
    tile: int
    model: tuple[Tensor, ...]
    scene: Scene | None

    def save(self, path: Path) -> None:
        """Write the state as a safetensors file that appears whole.

        Raises:
            WorkError: the file cannot be written.
        """
        tensors = {f"model.{index}": leaf.detach().cpu().contiguous() for index, leaf in enumerate(self.model)}
        about: dict[str, Any] = {"frames": self.frames, "tile": self.tile, "usual": None}
        if self.scene is not None:
            tensors["thumbnail"] = self.scene.thumbnail
            about["usual"] = self.scene.usual
        with io.whole(path) as part:
            try:
                safetensors.torch.save_file(tensors, part, {"stream": json.dumps(about)})
            except safetensors.SafetensorError as error:
                raise WorkError(f"cannot write {path}: {error}") from None

    @staticmethod
    def load(path: Path) -> StreamState:
        """Read what ``save`` wrote; the tensors are on the CPU.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("stream", "null"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
            scene = Scene(tensors.pop("thumbnail"), float(about["usual"])) if "thumbnail" in tensors else None
            leaves = tuple(tensors[f"model.{index}"] for index in range(len(tensors)))
            return StreamState(int(about["frames"]), int(about["tile"]), leaves, scene)
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not a sound state of a stream: {error}") from None


@dataclasses.dataclass
class _Waiting(Generic[Tag]):
    """A frame that is not enlarged yet; ``scene`` and ``starts`` are set when the detector has seen enough."""

    rgb: Tensor
    thumbnail: Tensor | None
    tag: Tag
    starts: bool = False
    scene: Scene | None = None
    judged: bool = False


class Stream(Generic[Tag]):
    """Enlarge frames in order, in constant memory.

    A video model's state is reset where a scene starts, and the frames before do not look ahead into it: what comes
    after a cut is what the second scene alone would give, what comes before it what the first would. When memory runs
    out, the side of the tiles is halved for the rest of the clip and the frame is computed again.

    Source: the recurrence of ``msr.models.video``.

    Args:
        chosen: the model.
        size: height and width of the frames.
        tile: side of the tiles in LR pixels; None or 0: by the size of the memory.
        state: where another stream stopped; None: the start of a clip.
        told: called with a sentence when the tiles become smaller.

    Raises:
        InputError: a tile that is too small, or a state that does not fit the model or the size.

    Example:
        >>> stream = Stream(choose_model(("video",), 4, None), (24, 32))    # doctest: +SKIP
        >>> for tag, large in stream.feed(frame, None, "first"):            # doctest: +SKIP
        ...     print(tag, large.shape)
    """

    def __init__(
        self,
        chosen: Chosen,
        size: tuple[int, int],
        tile: int | None = None,
        state: StreamState | None = None,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self._chosen = chosen
        self._size = size
        self._told = told
        self._ahead = int(getattr(chosen.module, "lookahead", 0)) if chosen.kind == "video" else 0
        self._warm_up = int(getattr(chosen.module, "warm_up", 0)) if chosen.kind == "video" else 0
        self._waiting: deque[_Waiting[Tag]] = deque()
        self._tile = choose_tile(tile, chosen.device) if state is None else state.tile
        self._tiles = plan_tiles(*size, self._tile, chosen.halo)
        self._frames = 0 if state is None else state.frames
        self._scene = None if state is None else state.scene
        self._model: Any = None
        if state is not None and state.model:
            if any(leaf.ndim != 4 or leaf.shape[-2] % size[0] or leaf.shape[-1] % size[1] for leaf in state.model):
                shapes = ", ".join(str(tuple(leaf.shape)) for leaf in state.model)
                raise InputError(f"a state of {shapes} does not fit frames of {size[1]}x{size[0]}")
            try:
                self._model = self._rebuild(tuple(chosen.place(leaf) for leaf in state.model))
            except TypeError:
                raise InputError(f"a state of {len(state.model)} tensors does not fit the model") from None

    @property
    def state(self) -> StreamState:
        """What the frames that came out so far leave to the next; later steps do not change it."""
        return StreamState(self._frames, self._tile, _leaves(self._model), self._scene)

    def feed(self, rgb: Tensor, thumbnail: Tensor | None, tag: Tag) -> Iterator[tuple[Tag, Tensor]]:
        """Take the next frame and give those that can be enlarged now.

        Args:
            rgb: ``(1, 3, H, W)`` on the model's device.
            thumbnail: what ``msr.pipelines.scenes.thumbnail`` gives for it; None (for all frames): no cuts.
            tag: comes back with the result.

        Yields:
            The tag and the enlargement ``(1, 3, sH, sW)`` of one frame.
        """
        self._waiting.append(_Waiting(rgb, thumbnail, tag))
        yield from self._give(ended=False)

    def end(self) -> Iterator[tuple[Tag, Tensor]]:
        """Give the frames that waited for more, of which there are none."""
        yield from self._give(ended=True)

    def _give(self, ended: bool) -> Iterator[tuple[Tag, Tensor]]:
        while self._waiting and (future := self._future(ended)) is not None:
            first = self._waiting[0]
            # The caller may resume this from anywhere, so that the mode is set here and not around a yield.
            with torch.inference_mode():
                result = self._step(first.rgb, future, None if first.starts else self._model)
            self._waiting.popleft()
            self._scene = first.scene
            self._frames += 1
            yield first.tag, result

    def _future(self, ended: bool) -> list[Tensor] | None:
        """The frames that the first one looks ahead to, or None while that is not known."""
        future: list[Tensor] = []
        scene = self._scene
        wanted = self._ahead
        for index in itertools.count():
            if index > wanted:
                break
            if index == len(self._waiting):
                if not ended:
                    return None
                break
            entry = self._waiting[index]
            if not entry.judged:
                thumbnails = [other.thumbnail for other in list(self._waiting)[index:] if other.thumbnail is not None]
                if thumbnails and self._chosen.kind == "video":
                    verdict = judge(scene, thumbnails, ended)
                    if verdict is None:
                        return None
                    entry.starts, entry.scene = verdict
                entry.judged = True
            if not index and (entry.starts or self._model is None):
                wanted = max(self._ahead, self._warm_up)
            if index and entry.starts:
                break
            if index:
                future.append(entry.rgb)
            scene = entry.scene
        # The last frame of a scene stands for the one after it.
        return future or [self._waiting[0].rgb] * min(self._ahead, 1)

    def _step(self, rgb: Tensor, future: list[Tensor], state: Any) -> Tensor:
        while True:
            try:
                result, self._model = self._run(rgb, future, state)
                return result
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Here the error is gone, and with it what its traceback held.
            self._tile = halve_tile(self._tile, *self._size)
            self._tiles = plan_tiles(*self._size, self._tile, self._chosen.halo)
            if self._chosen.device.type == "cuda":
                torch.cuda.empty_cache()
            if self._told is not None:
                self._told(f"out of memory at frame {self._frames}: going on with tiles of {self._tile} pixels")

    def _run(self, rgb: Tensor, future: list[Tensor], state: Any) -> tuple[Tensor, Any]:
        """One frame; the state before it is left as it is, so that the frame can be repeated."""
        tiles, module = self._tiles, self._chosen.module
        if self._chosen.kind == "image":
            return tiles.join(lambda index: module(tiles.cut(rgb, index)), self._chosen.scale), None
        coming = torch.stack(future, 1) if future else rgb[:, None][:, :0]
        if len(tiles) == 1:
            return module.step(rgb, coming, state)  # type: ignore[operator]
        canvases: list[Canvas] = []
        dtypes: list[torch.dtype] = []
        rebuild = self._rebuild
        for index in range(len(tiles)):
            own = None if state is None else rebuild(tuple(tiles.cut(leaf, index) for leaf in _leaves(state)))
            out, left = module.step(tiles.cut(rgb, index), tiles.cut(coming, index), own)  # type: ignore[operator]
            parts = (out, *_leaves(left))
            canvases = canvases or [Canvas(tiles) for _ in parts]
            dtypes = [part.dtype for part in parts]
            for canvas, part in zip(canvases, parts, strict=True):
                canvas.add(index, part)
        result, *leaves = (canvas.joined().to(dtype) for canvas, dtype in zip(canvases, dtypes, strict=True))
        return result, rebuild(tuple(leaves))

    def _rebuild(self, leaves: tuple[Tensor, ...]) -> Any:
        """A state of the model's own type from its tensors."""
        if not leaves:
            return None
        kind = getattr(self._chosen.module, "state_type", None)
        return leaves[0] if kind is None else kind(*leaves)


def _leaves(state: Any) -> tuple[Tensor, ...]:
    """The tensors of a model's state: a tensor, or a tuple of them."""
    if state is None:
        return ()
    return (state,) if isinstance(state, Tensor) else tuple(state)
