"""The thread pool: every piece of every task runs once, whatever the threads do meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from python_threads import at_once

import minddpm

minddpm.set_backend("numba")  # the pool's functions are compiled into the kernels' cache

from pool_stress import count_up, errors  # noqa: E402

from minddpm.kernels.cpu import atomic, pool, task  # noqa: E402

pytestmark = pytest.mark.skipif(not atomic.HAS_WAITING, reason="no pool on this system")


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 8, 32])
def test_every_piece_of_every_task_runs_once(threads):
    assert errors(threads, 200_000 // threads) == 0


def test_a_task_has_at_most_32_pieces():
    with pytest.raises(ValueError, match="33 pieces: choose at most 32"):
        task.Task(lambda piece, pieces, worker, at: None)(33)


def test_pools_of_two_python_threads_do_not_disturb_each_other():
    assert at_once([(lambda seed: errors(3, 20_000), i) for i in range(2)]) == [0, 0]


def test_sleeping_workers_wake_up():
    workers, arguments = pool.Pool(3), np.zeros(1000, np.int64)
    for _ in range(20):
        time.sleep(2e-3)  # they spin for a twentieth of it
        workers.run(count_up.address, 32, arguments.ctypes.data)
    workers.stop()
    assert arguments[-1000:][8 + 32 * 8 :][:32].tolist() == [20] * 32


def test_a_stopped_pool_has_no_workers():
    before = threading.active_count()
    for pause in (0, 2e-3):  # before and after the workers have gone to sleep
        workers = pool.Pool(4)
        assert threading.active_count() == before + 3
        time.sleep(pause)
        workers.stop()
        assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_process_that_is_stopped_and_continued_loses_no_piece():
    command = [sys.executable, Path(__file__).parent / "pool_stress.py", "4", "100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert process.stdout.readline() == "ready\n"
    for i in range(100):
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(1e-4 * (i % 7))
            process.send_signal(signal.SIGCONT)
            time.sleep(1e-3 * (i % 5))
    assert (process.communicate(timeout=100)[0], process.returncode) == ("0\n", 0)
