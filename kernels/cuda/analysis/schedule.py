"""How busy a launch's blocks keep the multiprocessors, by simulation of their order.

Assumptions, not measurements. A GPU starts blocks in their order, each on the multiprocessor with
the fewest warps, as soon as its registers and shared memory are free. The warps in one of a
multiprocessor's four partitions take turns, and one alone reaches 60 % of its speed. Time counts
iterations of the main loop: those of a warp that never waits.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

PARTITIONS = 4  # of a multiprocessor
ALONE = 0.6  # of a partition's speed


class Block(NamedTuple):
    """A block's warps, and the iterations that each takes."""

    warps: int
    iterations: float


class _Multiprocessor:
    def __init__(self) -> None:
        self.now = 0.0
        self.warps = [0] * PARTITIONS
        self.running: list[tuple[list[float], list[int]]] = []  # [iterations left], partitions

    def start(self, block: Block) -> None:
        emptiest = sorted(range(PARTITIONS), key=self.warps.__getitem__)
        chosen = [emptiest[i % PARTITIONS] for i in range(block.warps)]
        for partition in chosen:
            self.warps[partition] += 1
        self.running.append(([block.iterations], chosen))

    def _speed(self, partitions: Sequence[int]) -> float:
        return min(ALONE, 1 / max(self.warps[p] for p in partitions))

    def next_end(self) -> float:
        """Return when the next block ends if none starts before."""
        return self.now + min(left[0] / self._speed(p) for left, p in self.running)

    def advance(self, now: float) -> int:
        """Run until `now`; return how many blocks end then."""
        speeds = [self._speed(partitions) for _, partitions in self.running]
        for (left, _), speed in zip(self.running, speeds, strict=True):
            left[0] -= speed * (now - self.now)
        ended = [block for block in self.running if block[0][0] < 1e-9]
        self.running = [block for block in self.running if block[0][0] >= 1e-9]
        for _, partitions in ended:
            for partition in partitions:
                self.warps[partition] -= 1
        self.now = now
        return len(ended)


def time(blocks: Sequence[Block], multiprocessors: int, resident: int) -> float:
    """Return how long the blocks take; resident: that fit on a multiprocessor at once."""
    chips = [_Multiprocessor() for _ in range(multiprocessors)]
    waiting = list(reversed(blocks))
    for _ in range(resident):
        for chip in chips:
            if waiting:
                chip.start(waiting.pop())
    ends = [(chip.next_end(), i) for i, chip in enumerate(chips) if chip.running]
    heapq.heapify(ends)
    now = 0.0
    while ends:
        now, i = heapq.heappop(ends)
        for _ in range(chips[i].advance(now)):
            if waiting:
                chips[i].start(waiting.pop())
        if chips[i].running:
            heapq.heappush(ends, (chips[i].next_end(), i))
    return now
