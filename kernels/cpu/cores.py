"""How many cores this process may use: its affinity, and the quota of its container."""

import os
from pathlib import Path, PurePosixPath


def usable_cores() -> int:
    """Return how many cores this process may use: the smaller of its affinity and its quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(-(-quota // 1))))  # rounded up


def cpu_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float | None:
    """Return the CPU seconds per second that control groups (of a container) allow; None: no limit.

    Version 2: cpu.max holds "quota period" in microseconds, or "max period". Version 1: quota and
    period are in two files, and -1 is no limit. The limits of enclosing groups apply as well.
    """
    try:
        lines = Path(proc).read_text().splitlines()
    except OSError:  # not Linux
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = Path(root, "cpu") if controllers else Path(root)
        inner = PurePosixPath(group.lstrip("/"))
        # In a container its own group is the top, but /proc may still give the path from outside.
        for folder in (top / inner, *(top / outer for outer in inner.parents)):
            limits += _limit(folder)
    return min(limits, default=None)


def _limit(folder: Path) -> list[float]:
    """Return the quota of one group from its files, as a list; [] if there is none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if quota not in ("max", "-1") else []
    except (OSError, ValueError):
        return []
