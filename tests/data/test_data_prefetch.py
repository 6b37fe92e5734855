"""The images of the next step are read ahead, and are those of that step."""

import threading

import numpy as np

from minddpm.data.prefetch import Prefetched


def test_the_next_step_is_read_in_another_thread():
    reads, ready = [], threading.Event()

    def read(chosen):
        reads.append((chosen.tolist(), threading.current_thread() is threading.main_thread()))
        if len(reads) == 2:
            ready.set()
        return chosen * 10

    images = Prefetched(lambda step: np.array([step, step + 1]), read, ahead=True)
    chosen, got = images(4)
    assert (chosen.tolist(), got.tolist()) == ([4, 5], [40, 50])
    assert ready.wait(10)
    assert reads == [([4, 5], True), ([5, 6], False)]
    assert images(5)[1].tolist() == [50, 60]
    assert images(9)[1].tolist() == [90, 100]  # as after a resume
    assert [r for r in reads if r[1]] == [([4, 5], True), ([9, 10], True)]


def test_nothing_is_read_ahead_from_memory():
    reads = []
    images = Prefetched(lambda step: np.array([step]), lambda x: reads.append(1) or x, ahead=False)
    assert images(0)[1].tolist() == [0]
    assert len(reads) == 1
