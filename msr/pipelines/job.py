"""A run that can be taken up again: finished segments, the state after them, and a journal, in one folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from msr import io
from msr.errors import InputError, WorkError
from msr.pipelines.stream import StreamState

#: Of the journal's form; another one is not read.
_VERSION = 1

#: What may be asked for only when a run goes on: without it, that has stopped before the first frame it is about.
_LATER = ("keep_going", "deinterlace")


class Job:
    """The folder ``.NAME.msr`` beside an output, which holds what is done of it.

    A segment counts once the journal names it, and the journal is replaced only after the segment and the state behind
    it are on the disk; so whatever moment a run ends at, the journal is true. Segments end after fixed numbers of
    frames, so that interruptions leave no trace in the result.

    Args:
        target: the output.
        asked: all that the result depends on, by name, as JSON holds it.
        resume: whether to go on with what is there.

    Attributes:
        segments: how many segments are finished.
        frames: how many frames they hold.
        state: what those frames leave to the next; None at the start of a clip.

    Raises:
        InputError: there is a started run and ``resume`` is False, or it was asked for something else, or another
            process is at it.
        WorkError: the folder cannot be written.

    Example:
        >>> with Job(Path("large.mp4"), {"scale": 2}, resume=True) as job:    # doctest: +SKIP
        ...     print(job.frames)
    """

    def __init__(self, target: Path, asked: dict[str, Any], resume: bool) -> None:
        self.target = target
        self.folder = job_folder(target)
        self.segments = 0
        self.frames = 0
        self.state: StreamState | None = None
        self._asked = asked
        self._journal = self.folder / "journal.json"
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _lock(self.folder / "lock", target)
            try:
                self._take_up(resume)
            except BaseException:
                os.close(self._lock)  # and nothing else: what is there may be days of work
                raise
        except OSError as error:
            raise WorkError(f"cannot write {self.folder}: {error.strerror or error}") from None

    def _take_up(self, resume: bool) -> None:
        there = _read(self._journal)
        if there is not None and there["segments"] and not resume:
            raise InputError(
                f"{self.target} was begun before and {there['frames']} frames of it are done: add --resume to go on, "
                f"or remove the folder {self.folder}"
            )
        if there is not None and there["segments"]:
            differing = sorted(
                key for key in self._asked.keys() | there["asked"].keys()
                if self._asked.get(key) != there["asked"].get(key)
                and not (key in _LATER and self._asked.get(key) is True and there["asked"].get(key) is False)
            )  # fmt: skip
            if differing:
                key = differing[0]
                was, now = _where_apart(str(there["asked"].get(key)), str(self._asked.get(key)))
                raise InputError(
                    f"cannot go on with {self.target}: {key} was {was} and is now {now}; ask for the same, or remove "
                    f"the folder {self.folder}"
                )
            self.segments, self.frames = int(there["segments"]), int(there["frames"])
            self.state = StreamState.load(self._state_file(self.segments))
        # What a killed run left half-done is of no use.
        keep = {"lock", "journal.json"} | ({self._state_file(self.segments).name} if self.segments else set())
        for path in self.folder.iterdir():
            if path.name not in keep and path not in self.finished():
                _remove(path)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; where nothing of it is of use, remove it."""
        if not self.segments:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def segment(self, index: int) -> Path:
        """Where a segment is written."""
        return self.folder / f"{index:06d}.mkv"

    def finished(self) -> list[Path]:
        """The finished segments in order."""
        return [self.segment(index) for index in range(self.segments)]

    def finish_segment(self, state: StreamState) -> None:
        """Note that the next segment is whole, and what its frames leave to those after it.

        Raises:
            WorkError: the disk does not take it.
        """
        number = self.segments + 1
        state.save(self._state_file(number))
        try:
            for path in (self.segment(self.segments), self._state_file(number)):
                _to_disk(path)
            _to_disk(self.folder)
            journal = {"version": _VERSION, "segments": number, "frames": state.frames, "asked": self._asked}
            with io.whole(self._journal) as part:
                part.write_text(json.dumps(journal, indent=1) + "\n")
                _to_disk(part)
            _to_disk(self.folder)
        except OSError as error:
            raise WorkError(f"cannot write {self.folder}: {error.strerror or error}") from None
        self._state_file(self.segments).unlink(missing_ok=True)
        self.segments, self.frames, self.state = number, state.frames, state

    def remove(self) -> None:
        """Remove the folder: the output is whole."""
        # The journal first: if this is cut short, it must not name segments that are gone.
        with contextlib.suppress(OSError):
            self._journal.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _state_file(self, segments: int) -> Path:
        return self.folder / f"state-{segments:06d}.safetensors"


def job_folder(target: Path) -> Path:
    """The folder of an output's unfinished run.

    Example:
        >>> job_folder(Path("films/large.mp4"))
        PosixPath('films/.large.mp4.msr')
    """
    return target.with_name(f".{target.name}.msr")


def discard_job(target: Path) -> None:
    """Remove what a run has left of an output.

    Raises:
        InputError: a process is at it.
    """
    folder = job_folder(target)
    if folder.exists():
        lock = _lock(folder / "lock", target)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def describe_source(source: Path) -> str:
    """What tells a clip from another under the same name: size and time of the file; of pictures, their names too."""
    if str(source) == "-":
        return "-"
    pictures = source.is_dir() or io.is_pattern(source)
    files = (io.image_files(source) if source.is_dir() else io.pattern_files(source)) if pictures else [source]
    try:
        facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror or error}") from None
    size, time = sum(fact[1] for fact in facts), max(fact[2] for fact in facts)
    said = f"{source.resolve()} of {size} bytes, changed at {time}"
    return (
        f"{said}, {len(facts)} pictures {hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}" if pictures else said
    )


def describe_model(module: nn.Module) -> str:
    """Name of the class and digest of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return f"{type(module).__name__} {digest.hexdigest()[:16]}"


def _read(journal: Path) -> dict[str, Any] | None:
    try:
        there = json.loads(journal.read_text())
        if there["version"] != _VERSION or not isinstance(there["asked"], dict):
            raise ValueError("of another version")
        return {"segments": int(there["segments"]), "frames": int(there["frames"]), "asked": there["asked"]}
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{journal} cannot be used ({error}); remove its folder to begin anew") from None


def _where_apart(was: str, now: str) -> tuple[str, str]:
    """The first parts of two descriptions that differ, without the name of what is described."""
    for one, other in zip(was.split(", "), now.split(", "), strict=False):
        if one != other:
            return re.sub(r"^\w+\(", "", one), re.sub(r"^\w+\(", "", other)
    return was, now


def _lock(path: Path, target: Path) -> int:
    """Keep others from the same output until the file is closed, also by the end of the process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:  # a system without; there the user sees to it
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InputError(f"another process is writing {target}") from None
    return descriptor


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
