"""Output that appears under its name only when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from msr.errors import InputError, WorkError


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output path that cannot or must not be written, before any work is done for it.

    Args:
        path: the file (or folder) to be written.
        inputs: the files read for it; none of them may be the output.

    Raises:
        InputError: the folder is missing or not writable, or the output is one of the inputs.

    Example:
        >>> check_output(Path("result.png"), [Path("photo.png")])
    """
    folder = path.parent
    try:
        if not folder.is_dir():
            raise InputError(f"cannot write {path}: the folder {folder} does not exist")
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write {path}: the folder {folder} is not writable")
        with contextlib.suppress(FileNotFoundError):
            path.stat()  # which says so if the name is too long
        for source in inputs:
            if path.exists() and source.exists() and path.samefile(source):
                raise InputError(f"the output {path} is also an input; choose another name")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def whole(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a temporary path; rename it to ``path`` when the block ends well, else remove it.

    A reader never sees half a result and an existing file stays until the new one is whole (``os.replace`` is atomic
    within a folder, POSIX rename). The block may write a file or make a folder at the temporary path.

    Args:
        path: the final name.
        folder: where it lies, on the same disk; None: beside ``path``. What a killed process leaves stays there.

    Yields:
        The temporary path, with the suffix of ``path`` so that a muxer still recognises its format.

    Raises:
        WorkError: the file cannot be written or renamed.

    Example:
        >>> with whole(Path("/tmp/note.txt")) as part:
        ...     _ = part.write_text("all of it")
    """
    beside = folder or path.parent
    part = beside / f".{path.stem}.{os.getpid()}.part{path.suffix}"
    if len(os.fsencode(part.name)) > 255:  # what file systems take
        part = beside / f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.part{path.suffix}"
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
