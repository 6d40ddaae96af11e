"""How many threads to use: no more than the CPUs this process may really run on.

``os.cpu_count()`` counts the machine's CPUs. In a container the scheduler's affinity mask and the cgroup's CPU quota
say how many of them are ours; more threads only take turns, and with a quota they are all stopped together.
"""

from __future__ import annotations

import os
from pathlib import Path

from slimbind.errors import UsageError

VARIABLE = "SLIMBIND_THREADS"


def resolve_threads(asked: int | None = None) -> int:
    """The number of threads an engine gets: ``asked``, else ``SLIMBIND_THREADS``, else ``available_cpus()``.

    Raises:
        UsageError: a number below 1, or an environment variable that is not a number.
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise UsageError(f"threads is {asked!r}", hint="give a whole number of 1 or more, or leave it out")
        return asked
    told = os.environ.get(VARIABLE, "").strip()
    if not told:
        return available_cpus()
    if not told.isdecimal() or int(told) < 1:
        raise UsageError(f"{VARIABLE} is {told!r}", hint="set it to a whole number of 1 or more, or unset it")
    return int(told)


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs this process may use: its affinity mask, cut to the cgroup's quota (rounded down, at least 1).

    ``root`` is where ``proc`` and ``sys`` lie.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity mask
        count = os.cpu_count() or 1
    quota = cgroup_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """The CPU quota of this process's cgroup in CPUs (1.5 = one and a half), or None where there is none.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``). A quota set on an outer group binds the inner
    ones, so the smallest on the way up counts.
    """
    quotas = []
    for mount, group, is_v2 in _groups(root):
        # Inside a container the path in /proc may be the host's and not exist below the mount; then the mount is ours.
        folder = mount / group
        while True:
            quota = _quota_v2(folder) if is_v2 else _quota_v1(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
    return min(quotas, default=None)


def _groups(root: Path) -> list[tuple[Path, str, bool]]:
    """(mount, path below it, is version 2) of every group that may limit our CPU."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = "/".join(part for part in path.split("/") if part not in ("", ".."))
        if number == "0" and not controllers:
            found.append((root / "sys/fs/cgroup", inside, True))
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((controllers, "cpu,cpuacct", "cpu")):
                if (root / "sys/fs/cgroup" / name).is_dir():
                    found.append((root / "sys/fs/cgroup" / name, inside, False))
                    break
    return found


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """``max`` (version 2) and -1 (version 1) mean no limit."""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
