"""Writes docs/ops.md from the docstrings of msr.ops and the results of the benchmarks: python docs/make_ops.py."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msr.ops

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"

INTRODUCTION = """# Ops

<!-- Written by docs/make_ops.py from the docstrings and benchmarks/results; edit those. -->

Tensors in, tensors out, by `from msr.ops import NAME`. Each op has a reference in plain PyTorch, `NAME_reference`,
which defines it, serves where no kernel does and is what the tests compare with; `msr info` tells which kernel runs
where. All are registered with PyTorch: autograd, `torch.compile(fullgraph=True)`, `torch.export` and autocast know
them. Wrong arguments raise a `ValueError` that prints the shapes and dtypes it got.

Figures stand with each op, losses too. Not yet measured: everything on a GPU, which is one command,
`python -m benchmarks --device cuda --out benchmarks/results/`, and `deform_conv2d` in bfloat16 on a CPU with AMX.

"AMD EPYC" without more is a Zen 4 with AVX-512 that multiplies bfloat16; "AMD EPYC AVX2" a Zen 3, on which PyTorch's
own convolutions of bfloat16 and float16 take up to a hundred times as long as those of float32.

Flows are in pixels, x (right) before y (down), from the target to the source; pixel centres lie at whole numbers.
"""

FORMULAS = {
    "flow_warp": "out(y, x) = sum over pixels (v, u) of k(y + flow_y(y, x) - v) k(x + flow_x(y, x) - u) x(v, u)",
    "deform_conv2d": "out(p) = bias + sum over taps t of weight(t) mask(p, t)\n"
    "         x(p stride - padding + t dilation + offset(p, t))",
    "flow_guided_deform_conv2d": "offset(p, t) = max_residue tanh(residue(p, t)) + flow(p)\n"
    "mask(p, t) = 1 / (1 + exp(-strength(p, t)))",
    "conv_transpose2d": "out(p stride - padding + t dilation) += weight(t) x(p), then activation(out + bias)",
    "conv_pixel_shuffle": "out(c, s y + i, s x + j) = activation(bias + (weight * x))(c s^2 + i s + j, y, x)",
    "correlation": "out(dy, dx, p) = mean over c of a(c, p) b(c, p + dilation (dy, dx))",
    "correlation_lookup": "out(dy, dx, p) = mean over c of a(c, p) b(c, coords(p) + (dy, dx)), b read bilinearly",
    "splat": "out(q) = sum over p of k(q - p - flow(p)) x(p), normalised as the mode says",
    "resize": "out(i) = sum over j of k((i + 1/2) / scale - 1/2 - j) x(j) along either axis",
    "local_contrast_norm": "d(p) = x(p) - mean of x over the window of p\n"
    "out(p) = d(p) / sqrt(mean of d^2 over the window of p and all channels + epsilon)",
    "kernel_merge": "out(q) = sum over frames n, pixels p of w(n, p) exp(-d' C^-1 d / 2) x(n, p) / sum without x",
}


def section(name: str) -> str:
    """One op: its signature, formula, docstring, and figures."""
    function = getattr(msr.ops, name)
    signature = str(inspect.signature(function)).replace("torch.Tensor", "Tensor").replace("typing.", "")
    parts = [f"## {name}", f"```python\n{name}{signature}\n```"]
    if name in FORMULAS:
        parts.append(f"```\n{FORMULAS[name]}\n```")
    parts.append(described(inspect.getdoc(function) or ""))
    parts += [table for table in (accuracy(name), speed(name)) if table]
    return "\n\n".join(parts)


def described(text: str) -> str:
    """A docstring in Markdown: its sections as bold words, its arguments as a list, its example as code."""
    out: list[str] = []
    for block in re.split(r"\n(?=(?:Args|Returns|Raises|Yields|Example):\n)", text):
        head, _, body = block.partition("\n")
        if head not in ("Args:", "Returns:", "Raises:", "Yields:", "Example:"):
            out.append(block.strip())
            continue
        body = inspect.cleandoc(body)
        if head == "Example:":
            out.append(f"```python\n{body}\n```")
        elif head == "Returns:":
            out.append(f"**Returns** {body}")
        else:
            items = re.sub(r"\n\s+", " ", body)
            items = re.sub(r"^(\*{0,2}\w+(?:, \w+)*):", r"- `\1`:", items, flags=re.M)
            out.append(f"**{head[:-1]}**\n\n{items}")
    return "\n\n".join(out)


def newest(benchmark: str) -> list[dict[str, Any]]:
    """The last report of a benchmark on each device."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob(f"{benchmark}-*.json"), key=lambda path: path.stem[-10:]):
        report = json.loads(path.read_text())
        if report["benchmark"] == benchmark:
            found[report["about"]["device"]] = report
    return list(found.values())


def accuracy(name: str) -> str:
    """Largest errors against float64 by width, of msr and of others."""
    tables = []
    for report in newest("accuracy"):
        rows = [row for row in report["rows"] if row["case"] == name]
        widths = sorted({row["width"] for row in rows})
        if not rows:
            continue
        lines = [f"| largest error at a width of | {' | '.join(map(str, widths))} |", "|---|" + "---|" * len(widths)]
        for candidate in dict.fromkeys(row["candidate"] for row in rows):
            errors = [row["largest_error"] for row in rows if row["candidate"] == candidate]
            lines.append(
                f"| {candidate} | {' | '.join('NaN' if error is None else f'{error:.1e}' for error in errors)} |"
            )
        tables.append(f"Accuracy on {report['about']['device']}, features from 0 to 1, "
                      f"by `python -m benchmarks.accuracy`:\n\n" + "\n".join(lines))  # fmt: skip
    return "\n\n".join(tables)


def speed(name: str) -> str:
    """Median times and ratios, losses too."""
    tables = []
    for report in newest(name):
        about = report["about"]
        lines = ["| case | candidate | ms | times faster |", "|---|---|---|---|"]
        for row in report["rows"]:
            lines.append(f"| {row['case']} | {row['candidate']} | {row['median_ms']:.2f} | {row['times_faster']:.2f} |")
        where = f"{about['device']}, {about['threads']} threads, torch {about['torch']}, {about['date']}"
        tables.append(f"Speed on {where}, by `python -m benchmarks {name}`:\n\n" + "\n".join(lines))
    return "\n\n".join(tables)


def page() -> str:
    """The whole page."""
    names = [name for name in msr.ops.__all__ if f"{name}_reference" in msr.ops.__all__]
    return "\n\n".join([INTRODUCTION.rstrip(), *(section(name) for name in names)]) + "\n"


if __name__ == "__main__":
    (HERE / "ops.md").write_text(page())
