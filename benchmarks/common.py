"""How msr is timed: candidates take turns in one run, medians and quartiles of many, and what they ran on."""

import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One comparison: what is computed and who computes it; all are compared with the first candidate."""

    name: str
    candidates: dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """Milliseconds of one candidate: median and quartiles, and how many times faster than the case's first it is."""

    case: str
    candidate: str
    median_ms: float
    lower_ms: float
    upper_ms: float
    times_faster: float


@dataclass
class Report:
    """The rows of one benchmark and where, when and on what they were taken."""

    benchmark: str
    rows: list[Row]
    about: dict[str, str | int] = field(default_factory=dict)


def about(device: torch.device) -> dict[str, str | int]:
    """Return what a reader needs to judge the figures: device, versions, threads, date and commit."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
        **({"tf32 in cuDNN": str(torch.backends.cudnn.allow_tf32)} if device.type == "cuda" else {}),
    }


def _processor() -> str:
    """Return the name of the processor and its vectors: some makers give all of a family one name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def measure(case: Case, device: torch.device, seconds: float = 3.0) -> list[Row]:
    """Time the candidates of `case` in turns, after a warm-up, for about `seconds` in all and at least 7 rounds."""
    calls = {}
    for name, candidate in case.candidates.items():
        _timed(candidate, device)
        # On a GPU enough calls in a row for what it does to outweigh the waiting for its end.
        calls[name] = max(1, min(50, int(2e-3 / _timed(candidate, device)))) if device.type == "cuda" else 1
    taken: dict[str, list[float]] = {name: [] for name in case.candidates}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 7 or (time.perf_counter() < end and rounds < 200):
        for name, candidate in case.candidates.items():
            taken[name].append(_timed(candidate, device, calls[name]))
        rounds += 1
    baseline = statistics.median(next(iter(taken.values())))
    rows = []
    for name, times in taken.items():
        lower, median, upper = statistics.quantiles(times, n=4)
        rows.append(Row(case.name, name, 1e3 * median, 1e3 * lower, 1e3 * upper, baseline / median))
    return rows


def _timed(candidate: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    """Seconds of one call, as a mean of so many."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        candidate()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


def run(benchmark: str, cases: Sequence[Case], device: torch.device, seconds: float) -> Report:
    """Measure every case, printing each as it is done."""
    report = Report(benchmark, [], about(device))
    print(f"{benchmark}: {report.about['device']}, torch {report.about['torch']}, {report.about['threads']} threads")
    for case in cases:
        rows = measure(case, device, seconds)
        report.rows += rows
        for row in rows:
            spread = f"[{row.lower_ms:.2f}, {row.upper_ms:.2f}]"
            print(f"  {case.name:<34} {row.candidate:<22} {row.median_ms:9.2f} ms {spread:<20} x{row.times_faster:.2f}")
    return report


def save(report: Report, folder: Path = RESULTS) -> Path:
    """Write the report as JSON, named by benchmark, kind of device and date; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    device = "-".join(str(report.about["device"]).lower().split())
    path = folder / f"{report.benchmark}-{device}-{report.about['date']}.json"
    path.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return path


def draw(report: Report, path: Path) -> bool:
    """Draw the speed-ups as bars into a PNG; return False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    cases = list(dict.fromkeys(row.case for row in report.rows))
    names = list(dict.fromkeys(row.candidate for row in report.rows))
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.28 * len(report.rows)), layout="constrained")
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        rows = [row for row in report.rows if row.candidate == name]
        places = [cases.index(row.case) + number * height for row in rows]
        bars = axes.barh(places, [row.times_faster - 1 for row in rows], height, left=1, label=name)
        axes.bar_label(bars, [f"{row.median_ms:.2f} ms" for row in rows], padding=3, fontsize=7)
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(cases))], cases, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")  # twice as slow is as long as twice as fast
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.15)
    axes.set_xlabel("times faster than the first of each case")
    axes.set_title(f"{report.benchmark}: {report.about['device']}, {report.about['threads']} threads", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
