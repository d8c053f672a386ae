"""The command line: runs a command, and says in one sentence what went wrong."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from msr.commands import make_parser
from msr.errors import MsrError
from msr.pipelines.heap import keep_freed_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``msr``; None: those of the process.

    Returns:
        The exit code: 0; 2 for bad use or bad input, 1 for failed work, 130 when interrupted.

    Example:
        >>> main(["image", "missing.png", "-o", "out.png"])    # doctest: +SKIP
        2
    """
    if arguments is None:  # the process is ours: a termination cleans up as an interrupt does
        signal.signal(signal.SIGTERM, _interrupt)
        keep_freed_memory()
    code = _run(arguments)
    if arguments is None and threading.active_count() > 1:
        # A thread that waits for a silent pipe holds a lock that Python's own end would wait for, and then abort.
        for file in filter(None, (sys.stdout, sys.stderr)):
            file.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = make_parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
        _flush()
    except MsrError as error:
        print(f"msr: error: {' '.join(str(error).split())}", file=sys.stderr)
        try:
            _flush()
        except OSError:
            _forget_output()
        return error.exit_code
    except (RuntimeError, MemoryError) as error:
        from msr.pipelines.tiling import out_of_memory

        if not out_of_memory(error):
            raise
        print("msr: error: out of memory; a smaller --tile or --scale, or --device cpu, needs less", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough
        _forget_output()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _forget_output()
        print(f"msr: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print("; ".join(["msr: interrupted", *filter(None, map(str, stopped.args))]), file=sys.stderr)
        return 130
    return 0


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _forget_output() -> None:
    """What could not be written is not to be tried again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
