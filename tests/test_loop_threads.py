"""Work shared among threads: every part once, errors after the last thread, forked processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tailwise import loops


@pytest.fixture(params=["openmp", "pool"])
def runs_on(request, monkeypatch) -> Iterator[str]:
    if request.param == "pool":
        monkeypatch.setattr(loops, "_openmp", lambda: None)
    elif loops._openmp() is None:
        pytest.skip("torch's threads are not OpenMP's on this system")
    elif {"OMP_THREAD_LIMIT", "OMP_DYNAMIC"} & set(os.environ):
        pytest.skip("the environment limits OpenMP's threads")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 7, 100])
@pytest.mark.usefixtures("runs_on")
def test_every_part_is_done_once(parts):
    seen = np.zeros(parts, int)

    def loop(table, start, step):
        for part in range(start, len(table), step):
            table[part] += 1

    loops.share(loop, parts, seen)
    np.testing.assert_array_equal(seen, 1)


@pytest.mark.usefixtures("runs_on")
def test_several_threads_take_part():
    together = threading.Barrier(3)

    def loop(start, step):
        if start < 3:
            together.wait(timeout=30)  # nobody passes alone

    loops.share(loop, 12)
    assert not together.broken


@pytest.mark.usefixtures("runs_on")
def test_an_error_is_raised_when_all_threads_are_done():
    together, done = threading.Barrier(3), []

    def loop(start, step):
        if start < 3:
            together.wait(timeout=30)
        if start == 1:
            raise ValueError("part 1 is bad")
        done.append(start)

    with pytest.raises(ValueError, match="part 1 is bad"):
        loops.share(loop, 12)
    assert sorted(done) == [0, *range(2, 12)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads: that is what is tested
@pytest.mark.usefixtures("runs_on")
def test_a_forked_process_makes_threads_of_its_own():
    def loop(start, step):
        pass

    loops.share(loop, 12)  # now there are threads, which do not exist there
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # rather than wait forever
        code = 1
        try:
            loops.share(loop, 12)
            code = 7 if loops._pool.cache_info().currsize == 1 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.usefixtures("runs_on")
def test_several_callers_at_once():
    tables = np.zeros((4, 30), int)

    def loop(table, start, step):
        for part in range(start, len(table), step):
            table[part] += 1

    def call(table):
        for _ in range(50):
            loops.share(loop, len(table), table)

    callers = [threading.Thread(target=call, args=(table,), daemon=True) for table in tables]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    np.testing.assert_array_equal(tables, 50)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not list threads")
def test_torch_keeps_its_threads():
    """Of a team that shrinks, OpenMP ends the rest of the threads, and starts others for the next operation."""
    program = """
import os, sys, torch, tailwise.losses
loops = sys.modules["tailwise.loops"]  # loaded before anybody forks
torch.set_num_threads(3)
numbers = torch.zeros(1 << 20)
numbers.add_(1)
before = set(os.listdir("/proc/self/task"))
for _ in range(5):
    loops.share(lambda start, step: None, 2)
    numbers.add_(1)
assert set(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
