"""What a burst's pictures are worked on with: parts in threads, small filters, a heap that keeps its memory."""

import json
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch
from torch.nn import functional as F

from msr.pipelines.handheld.filters import means
from msr.pipelines.handheld.parts import in_parts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_row_is_worked_on_once_and_threads_are_as_before() -> None:
    rows, names = torch.zeros(101), set()

    def work(top: int, bottom: int) -> None:
        rows[top:bottom] += 1
        names.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        assert torch.is_inference_mode_enabled()

    for _ in range(3):
        in_parts(101, 4, CPU, work)
    assert bool((rows == 3).all())
    assert len(names) <= 2  # the threads are kept from call to call
    assert torch.get_num_threads() == 2


def test_an_error_comes_out_when_nothing_is_at_work_any_more() -> None:
    busy = threading.Semaphore(2)

    def work(top: int, bottom: int) -> None:
        with busy:
            if top == 8:
                raise ValueError("row 8")
            torch.ones(1 << 18).sum()

    with pytest.raises(ValueError, match="row 8"):
        in_parts(1000, 4, CPU, work)
    assert busy.acquire(blocking=False)
    assert busy.acquire(blocking=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_has_threads_of_its_own() -> None:
    command = """
import os, torch
from msr.pipelines.handheld.parts import in_parts
torch.set_num_threads(2)
found = []
def go():
    in_parts(64, 4, torch.device("cpu"), lambda top, bottom: found.append(top))
go()
child = os.fork()
if child == 0:
    go()
    os._exit(len(found))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, timeout=120, check=True)
    assert int(done.stdout) == 32


@pytest.mark.parametrize(("height", "width", "side"), [(8, 12, 2), (9, 13, 2), (50, 61, 7), (2, 2, 2), (64, 64, 16)])
def test_means_are_those_of_pooling(height: int, width: int, side: int) -> None:
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(means(x, side), F.avg_pool2d(x, side))
    torch.testing.assert_close(means(x[:, 1:2, :, 1:].double(), 1), x[:, 1:2, :, 1:].double())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_that_is_kept_costs_no_faults() -> None:
    command = """
import json, resource, sys
import torch
from msr.pipelines.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
torch.set_num_threads(1)
faults = []
for _ in range(15):
    torch.ones(1 << 24)  # 64 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(json.dumps(faults[-1] - faults[2]))
"""
    kept, not_kept = (
        json.loads(subprocess.run([sys.executable, "-c", command, how], stdout=subprocess.PIPE, check=True).stdout)
        for how in ("kept", "as usual")
    )
    assert kept < 0.1 * not_kept  # all pages once more is one in twelve, and happens
