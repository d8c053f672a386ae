"""The commands: arguments in, pipelines out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from msr.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def make_parser() -> argparse.ArgumentParser:
    """All commands; what the chosen one runs is its ``run``."""
    parser = _Parser(prog="msr", description="Super-resolution of photos, clips and bursts.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    image = commands.add_parser("image", help="enlarge pictures")
    image.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="PNG, JPEG, TIFF, WebP, BMP or RAW file")
    image.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="a file; a folder for several inputs"
    )
    _add_model_options(image)
    _add_ensemble(image)
    image.set_defaults(run=_image)

    _add_video(commands.add_parser("video", help="enlarge a clip, with all that belongs to it"))

    _add_burst(commands.add_parser("burst", help="merge several shots of one scene to one enlarged picture"))

    simulated = commands.add_parser("burst-sim", help="simulate a burst from a photo, the truth beside it")
    simulated.add_argument("photo", type=Path, metavar="PHOTO", help="the original")
    simulated.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="a new folder")
    simulated.add_argument("--count", type=int, default=15, metavar="N", help="frames (15)")
    simulated.add_argument("--scale", type=int, default=2, metavar="S", help="how much smaller the frames are (2)")
    kinds = simulated.add_mutually_exclusive_group()
    kinds.add_argument("--dng", action="store_true", help="RAW frames (the default)")
    kinds.add_argument("--jpeg", action="store_true", help="JPEG frames")
    simulated.add_argument(
        "--noise", nargs="+", type=float, metavar="X", help="RAW: A B of the variance A x + B; JPEG: its deviation"
    )
    simulated.add_argument("--shift", type=float, default=4.0, metavar="PIXELS", help="largest shift of a frame (4)")
    simulated.add_argument("--moving", action="store_true", help="something moves through the scene")
    simulated.add_argument("--seed", type=int, default=0, metavar="K", help="decides what is random (0)")
    simulated.set_defaults(run=_burst_sim)

    verify = commands.add_parser("verify", help="say what of a clip another one kept, changed or lost")
    verify.add_argument("before", type=Path, metavar="IN", help="the source")
    verify.add_argument("after", type=Path, metavar="OUT", help="what was made of it, by whatever tool")
    verify.set_defaults(run=_verify)

    compare = commands.add_parser("compare", help="a page with a before/after slider, and figures over time")
    compare.add_argument("a", metavar="A", help="a picture, a clip, a folder or a pattern of pictures")
    compare.add_argument("b", metavar="B", help="another one of the same kind")
    compare.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE.html", help="the page to write")
    compare.add_argument("--reference", metavar="R", help="the truth, by which PSNR and SSIM are measured")
    compare.add_argument("--frames", type=int, default=24, metavar="N", help="frames of a clip to show at most (24)")
    compare.add_argument("-q", "--quiet", action="store_true", help="show no progress and no summary")
    compare.set_defaults(run=_compare)

    evaluate = commands.add_parser("eval", help="measure models by a named protocol")
    evaluate.add_argument("--protocol", required=True, metavar="NAME", help="what is measured how (docs/protocols.md)")
    evaluate.add_argument("data", type=Path, metavar="DATA", help="folder of originals")
    evaluate.add_argument("--model", nargs="+", default=[], metavar="NAME", help="models to compare: names or files")
    evaluate.add_argument(
        "--results", nargs="+", default=[], type=Path, metavar="FOLDER", help="results of others, named as DATA is"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="use only the first N originals")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the table here as well")
    _add_ensemble(evaluate)
    _add_device_options(evaluate)
    evaluate.set_defaults(run=_eval)

    train = commands.add_parser("train", help="train a model")
    train.add_argument("config", type=Path, metavar="CONFIG.toml", help="what to train on what")
    how = train.add_mutually_exclusive_group()
    how.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    how.add_argument("--dry-run", action="store_true", help="say what it would cost; write nothing")
    train.set_defaults(run=_train)

    commands.add_parser("models", help="list the models that ship").set_defaults(run=_models)
    commands.add_parser("info", help="versions, devices, and which kernels run where").set_defaults(run=_info)
    return parser


def _add_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="IN", help="a clip, a folder or pattern (frames/%%05d.png) of pictures, or - for y4m"
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".mp4, .mov, .mkv, .webm, a new folder, a pattern of pictures, or - for y4m",
    )
    _add_model_options(parser, float)
    size = parser.add_argument_group("size, instead of --scale")
    size.add_argument("--size", metavar="WxH", help="exactly this size")
    size.add_argument("--fit", metavar="WxH", help="the largest size of the clip's shape within this one")
    encoder = parser.add_argument_group("encoding")
    encoder.add_argument("--codec", metavar="NAME", help="h264, hevc, vp9, av1, .. (by the container and the depth)")
    encoder.add_argument("--crf", type=float, metavar="Q", help="quality; less is better, 0 is without loss")
    encoder.add_argument("--pix-fmt", metavar="NAME", help="pixel format in FFmpeg's words (that of the source)")
    part = parser.add_argument_group("reading")
    part.add_argument("--start", type=float, default=0.0, metavar="SECONDS", help="where to begin (0)")
    part.add_argument("--duration", type=float, metavar="SECONDS", help="how much to enlarge (to the end)")
    part.add_argument("--rate", default="25", metavar="FPS", help="frames a second of pictures (25)")
    part.add_argument("--deinterlace", action="store_true", help="deinterlace; interlaced clips are refused otherwise")
    part.add_argument("--keep-going", action="store_true", help="pass over damaged places")
    part.add_argument("--no-cuts", action="store_true", help="do not look for cuts from scene to scene")
    run = parser.add_argument_group("running")
    run.add_argument("--resume", action="store_true", help="go on with what a stopped run has left")
    run.add_argument("--preview", type=float, metavar="SECONDS", help="first make a preview and a before/after picture")
    run.add_argument("--json", action="store_true", help="progress as lines of JSON")
    parser.set_defaults(run=_video)


def _add_burst(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="IN", help="pictures, RAW files, one folder of them, or a clip"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="a picture, .exr, or .dng for RAW files"
    )
    parser.add_argument(
        "--method", metavar="NAME", help="handheld (no training, any scale from 1 to 4) or learned (where weights ship)"
    )
    parser.add_argument(
        "--base", default="sharpest", metavar="N", help="the frame to look like: sharpest, first, or a number from 0 on"
    )
    parser.add_argument("--confidence", type=Path, metavar="FILE", help="a picture of how much the other frames count")
    parser.add_argument("--explain", type=Path, metavar="PAGE.html", help="a page on how the frames were merged")
    _add_model_options(parser, float)
    parser.set_defaults(run=_burst)


def _add_model_options(parser: argparse.ArgumentParser, scale: type = int) -> None:
    parser.add_argument("--scale", type=scale, metavar="S", help="enlargement factor (the model's, or 4)")
    parser.add_argument("--model", metavar="NAME|FILE", help="a model that ships (msr models) or a weights file")
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="side of the tiles (0: by the size of the memory)")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress and no summary")
    _add_device_options(parser)


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ensemble", action="store_true", help="mean over turns and flips: some 0.1 dB better, 8 times as long"
    )


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument(
        "--dtype", default="float32", help="float32, bfloat16, float16, or auto: bfloat16 where it is quicker (float32)"
    )


# The imports of the commands stand inside them: each command loads what it needs.


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
        ensemble=options.ensemble,
        progress=not options.quiet,
    )
    for result in () if options.quiet else written:
        print(f"{result.path}: {result.width}x{result.height} in {result.seconds:.2f} s", file=sys.stderr)


def _video(options: argparse.Namespace) -> None:
    from msr.io import EncoderSettings
    from msr.pipelines import VideoOptions, preview_video, upscale_video
    from msr.pipelines.progress import Bar, JsonLines, Report
    from msr.pipelines.target import parse_rate, parse_size

    wanted = VideoOptions(
        size=None if options.size is None else parse_size(options.size),
        fit=None if options.fit is None else parse_size(options.fit),
        encoder=EncoderSettings(options.codec, options.crf, options.pix_fmt),
        start=options.start,
        duration=options.duration,
        rate=parse_rate(options.rate),
        resume=options.resume,
        deinterlace=options.deinterlace,
        keep_going=options.keep_going,
        cuts=not options.no_cuts,
    )
    lines = JsonLines(sys.stderr if options.output == "-" else sys.stdout) if options.json else None
    report: Report = lines or (Report() if options.quiet else Bar())
    names = options.input, options.output
    model = options.scale, options.model
    how = {"device": options.device, "dtype": options.dtype, "tile": options.tile, "progress": report}
    if options.preview is not None:
        written, picture = preview_video(*names, options.preview, *model, options=wanted, **how)
        report.note(f"preview of {written.frames} frames in {written.path}, before and after in {picture}")
    result = upscale_video(*names, *model, options=wanted, **how)
    if lines is not None:
        lines.say("done", path=str(result.path), width=result.width, height=result.height, frames=result.frames)
    elif not options.quiet:
        name = "standard output" if options.output == "-" else str(result.path)
        speed = f"{result.frames} frames in {result.seconds:.2f} s"
        print(f"{name}: {result.width}x{result.height}, {speed}", file=sys.stderr)


def _verify(options: argparse.Namespace) -> None:
    from msr.errors import WorkError
    from msr.io import audit, worst
    from msr.pipelines.report import print_table

    findings = audit(options.before, options.after)
    print_table(["", str(options.before), str(options.after), ""],
                [[f.what, f.before, f.after, f.verdict] for f in findings])  # fmt: skip
    if worst(findings) == "lost":
        lost = ", ".join(finding.what for finding in findings if finding.verdict == "lost")
        if sys.stdout is not None:
            sys.stdout.flush()
        raise WorkError(f"{options.after} has lost of {options.before}: {lost}")


def _compare(options: argparse.Namespace) -> None:
    from msr.pipelines.compare import compare

    made = compare(
        options.a, options.b, options.output, options.reference, frames=options.frames, progress=not options.quiet
    )
    for note in () if options.quiet else made.notes:
        print(f"msr: {note}", file=sys.stderr)
    if not options.quiet:
        print(f"{made.path}: {made.shown} of {made.frames} frames", file=sys.stderr)


def _burst(options: argparse.Namespace) -> None:
    from msr.pipelines import BurstOptions, merge_burst_files
    from msr.pipelines.progress import Bar, Report

    result = merge_burst_files(
        options.inputs,
        options.output,
        options.scale,
        options.model,
        options=BurstOptions(
            options.method,
            int(options.base) if options.base.isdecimal() and len(options.base) < 10 else options.base,
            options.confidence,
            options.explain,
        ),
        device=options.device,
        dtype=options.dtype,
        tile=options.tile,
        progress=Report() if options.quiet else Bar(),
    )
    if not options.quiet:
        size = f"{result.width}x{result.height} from {result.frames} frames in {result.seconds:.2f} s"
        print(f"{result.path}: {size}", file=sys.stderr)


def _burst_sim(options: argparse.Namespace) -> None:
    from msr.pipelines.burst_sim import simulate_burst_files

    written = simulate_burst_files(
        options.photo,
        options.output,
        count=options.count,
        scale=options.scale,
        jpeg=options.jpeg,
        noise=None if options.noise is None else tuple(options.noise),
        shift=options.shift,
        moving=options.moving,
        seed=options.seed,
    )
    print(f"{written[0].parent}: {len(written) - 1} frames; {written[-1]}: the truth", file=sys.stderr)


def _eval(options: argparse.Namespace) -> None:
    from msr.pipelines.evaluate import evaluate
    from msr.pipelines.report import print_table, save_json

    table = evaluate(
        options.protocol,
        options.data,
        options.model,
        results=options.results,
        device=options.device,
        dtype=options.dtype,
        limit=options.limit,
        ensemble=options.ensemble,
    )
    print_table(table.columns, table.rows)
    if options.json is not None:
        save_json(table.as_json(), options.json)


def _train(options: argparse.Namespace) -> None:
    if options.dry_run:
        from msr.pipelines.report import print_table
        from msr.train.dry_run import dry_run

        print_table(["", ""], dry_run(options.config))
        return
    from msr.train import train

    train(options.config, resume=options.resume)


def _models(options: argparse.Namespace) -> None:
    from msr.pipelines.report import models_table, print_table

    print_table(*models_table())


def _info(options: argparse.Namespace) -> None:
    from msr.pipelines.report import info_table, print_table

    print_table(*info_table())
