"""The command line: arguments in, pipelines out."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from msr.errors import InputError, MsrError


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


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
    try:
        options = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], None] = options.run
        run(options)
        sys.stdout.flush()
    except MsrError as error:
        print(f"msr: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("msr: interrupted", file=sys.stderr)
        return 130
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="msr", description="Super-resolution of photos, clips and bursts.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    image = commands.add_parser("image", help="enlarge pictures")
    image.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="PNG, JPEG, TIFF, WebP, BMP or RAW file")
    image.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="a file; a folder for several inputs"
    )
    _add_model_options(image)
    image.set_defaults(run=_image)

    video = commands.add_parser("video", help="enlarge a clip, with its audio")
    video.add_argument("input", type=Path, metavar="IN", help="a clip, or a folder of pictures")
    video.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help=".mp4, .mov, .mkv, .webm or a new folder"
    )
    _add_model_options(video)
    video.set_defaults(run=_video)

    burst = commands.add_parser("burst", help="merge several shots of one scene to one enlarged picture")
    burst.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="pictures or RAW files (first: base), or one folder"
    )
    burst.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="the file to write")
    _add_model_options(burst)
    burst.set_defaults(run=_burst)

    evaluate = commands.add_parser("eval", help="measure models by a named protocol")
    evaluate.add_argument("protocol", metavar="PROTOCOL", help="name of the protocol")
    evaluate.add_argument("data", type=Path, metavar="DATA", help="folder of originals")
    evaluate.add_argument("--model", nargs="+", required=True, metavar="NAME", help="models to compare: names or files")
    evaluate.add_argument("--limit", type=int, metavar="N", help="use only the first N originals")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the table here as well")
    _add_device_options(evaluate)
    evaluate.set_defaults(run=_eval)

    train = commands.add_parser("train", help="train a model")
    train.add_argument("config", type=Path, metavar="CONFIG.toml", help="what to train on what")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.set_defaults(run=_train)

    commands.add_parser("models", help="list the models that ship").set_defaults(run=_models)
    commands.add_parser("info", help="versions, devices, and which kernels run where").set_defaults(run=_info)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=int, metavar="S", help="enlargement factor (the model's, or 4)")
    parser.add_argument("--model", metavar="NAME|FILE", help="a model that ships (msr models) or a weights file")
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="side of the tiles (0: by the size of the memory)")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress and no summary")
    _add_device_options(parser)


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (float32)")


# The imports of the commands stand inside them: torch takes seconds to load, --help and a wrong word do not need it.


def _image(options: argparse.Namespace) -> None:
    from msr.pipelines import upscale_image_files

    written = upscale_image_files(
        options.inputs,
        options.output,
        options.scale,
        options.model,
        device=options.device,
        dtype=options.dtype,
        tile=options.tile,
        progress=not options.quiet,
    )
    for result in () if options.quiet else written:
        print(f"{result.path}: {result.width}x{result.height} in {result.seconds:.2f} s", file=sys.stderr)


def _video(options: argparse.Namespace) -> None:
    from msr.pipelines import upscale_video

    result = upscale_video(
        options.input,
        options.output,
        options.scale,
        options.model,
        device=options.device,
        dtype=options.dtype,
        tile=options.tile,
        progress=not options.quiet,
    )
    if not options.quiet:
        speed = f"{result.frames} frames at {result.frames / result.seconds:.2f} frames/s"
        print(f"{result.path}: {result.width}x{result.height}, {speed}", file=sys.stderr)


def _burst(options: argparse.Namespace) -> None:
    from msr.pipelines import merge_burst_files

    result = merge_burst_files(
        options.inputs,
        options.output,
        options.scale,
        options.model,
        device=options.device,
        dtype=options.dtype,
        tile=options.tile,
        progress=not options.quiet,
    )
    if not options.quiet:
        size = f"{result.width}x{result.height} from {result.frames} frames in {result.seconds:.2f} s"
        print(f"{result.path}: {size}", file=sys.stderr)


def _eval(options: argparse.Namespace) -> None:
    from msr.pipelines.evaluate import evaluate
    from msr.pipelines.report import print_table, save_json

    table = evaluate(
        options.protocol,
        options.data,
        options.model,
        device=options.device,
        dtype=options.dtype,
        limit=options.limit,
    )
    print_table(table.columns, table.rows)
    if options.json is not None:
        save_json(table.as_json(), options.json)


def _train(options: argparse.Namespace) -> None:
    from msr.train import train

    train(options.config, resume=options.resume)


def _models(options: argparse.Namespace) -> None:
    from msr.pipelines.report import models_table, print_table

    print_table(*models_table())


def _info(options: argparse.Namespace) -> None:
    from msr.pipelines.report import info_table, print_table

    print_table(*info_table())
