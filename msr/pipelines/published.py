"""Folders of clips, and results that some other program has written: which file belongs to which original."""

from __future__ import annotations

from pathlib import Path

from msr.errors import InputError
from msr.io.frames import image_files


def list_clips(folder: Path) -> list[Path]:
    """The folders of frames in a folder, sorted; hidden ones, which programs leave behind, do not count.

    Raises:
        InputError: no such folder, or none in it.

    Example:
        >>> list_clips(Path("Vid4"))    # doctest: +SKIP
        [PosixPath('Vid4/calendar'), PosixPath('Vid4/city')]
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of clips")
    paths = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not paths:
        raise InputError(f"{folder}: holds no folders of frames")
    return paths


def results_for(folder: Path, originals: list[Path]) -> dict[str, Path]:
    """The picture in a folder for each of the originals, by the name without suffix.

    Raises:
        InputError: the folder cannot be read, a result is missing, there is one too many, or two have one name.

    Example:
        >>> results_for(Path("theirs"), [Path("Set5/baby.png")])    # doctest: +SKIP
        {'baby': PosixPath('theirs/baby.png')}
    """
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in found:
            raise InputError(f"{folder} holds two results for {path.stem}")
        found[path.stem] = path
    wanted = [path.stem for path in originals]
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        raise InputError(f"{folder} lacks a result for {missing[0]}{_more(missing)}")
    extra = sorted(found.keys() - set(wanted))
    if extra:
        raise InputError(f"{found[extra[0]]} has no original of its name{_more(extra)}")
    return found


def clips_for(folder: Path, originals: list[Path]) -> dict[str, Path]:
    """The folder of frames in a folder for each of the original clips, by name.

    Raises:
        InputError: the folder cannot be read, a clip is missing, or there is one too many.

    Example:
        >>> clips_for(Path("theirs"), [Path("Vid4/walk")])    # doctest: +SKIP
        {'walk': PosixPath('theirs/walk')}
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of results")
    found = {path.name: path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    wanted = [path.name for path in originals]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"{folder} lacks the clip {missing[0]}{_more(missing)}")
    extra = sorted(found.keys() - set(wanted))
    if extra:
        raise InputError(f"{found[extra[0]]} has no original clip of its name{_more(extra)}")
    return found


def _more(names: list[str]) -> str:
    return f" and for {len(names) - 1} more" if len(names) > 1 else ""
