"""What this machine gives this process: CPUs by affinity and quota, physical cores, the processor's instructions, the GPU."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_NVIDIA_SMI_TIMEOUT_S = 20


@dataclass(frozen=True)
class Gpu:
    """A CUDA device.

    Attributes:
        name: as the driver gives it.
        compute_capability: such as ``sm89``.
    """

    name: str
    compute_capability: str


def usable_cpus(root: Path = _ROOT) -> int:
    """How many CPUs this process may keep busy: those it may run on, and no more than its control group's quota pays for.

    A quota of one CPU and a half counts as one: a second thread would be stopped for the rest of every period.

    Args:
        root: where /proc and /sys lie.
    """
    return _within_quota(len(_allowed_cpus()), root)


def compute_threads(workers: int = 1, root: Path = _ROOT) -> int:
    """How many threads one of several workers should compute with: its share of the usable physical cores.

    Two threads on one core share its vector units: for convolutions the second brings nothing and costs cache.

    Args:
        workers: processes that compute at the same time.
        root: where /proc and /sys lie.
    """
    return max(1, _within_quota(physical_cores(root), root) // workers)


def physical_cores(root: Path = _ROOT) -> int:
    """How many different physical cores the CPUs belong to that this process may run on."""
    allowed = _allowed_cpus()
    cores = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        try:  # the set of a core's threads is unique in the machine; ``core_id`` is so within a package only
            cores.add((topology / "thread_siblings_list").read_text().strip())
        except OSError:
            return len(allowed)
    return len(cores)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many CPUs the control groups of this process allow, in CPUs; None where no group limits it.

    Versions 1 and 2 of control groups; of a group and all above it the narrowest counts.
    """
    return min(_quotas(root), default=None)


def cpu_flags(root: Path = _ROOT) -> frozenset[str]:
    """What instructions the processor has, by Linux's names (``avx512_bf16``); empty where nobody tells."""
    with suppress(OSError):
        for text in (root / "proc/cpuinfo").read_text().splitlines():
            name, _, value = text.partition(":")
            if name.strip() in {"flags", "Features"}:
                return frozenset(value.split())
    return frozenset()


def cpu_model(root: Path = _ROOT) -> str:
    """The processor's name."""
    with suppress(OSError):
        for text in (root / "proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def local_gpu() -> Gpu | None:
    """The GPU that CUDA would take first, asked of the driver without loading CUDA; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # CUDA's first device is then another than the driver's, or there is none
        query.append(f"--id={visible.split(',')[0].strip() or -1}")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    first = answer.stdout.strip().splitlines()[:1]
    if not first or "," not in first[0]:
        return None
    name, capability = first[0].rsplit(",", 1)
    return Gpu(name.strip(), "sm" + capability.strip().replace(".", ""))


def _allowed_cpus() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _within_quota(count: int, root: Path) -> int:
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def _quotas(root: Path) -> Iterator[float]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)  # see cgroups(7)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        if controllers and not mount.is_dir():  # of ``cpu,cpuacct`` there may be a folder for each
            mount = mount.with_name("cpu")
        # In a container the path may be the host's, and the mount already the container's own group: what is there counts.
        for part in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents):
            with suppress(OSError, ValueError):
                yield _v1(mount / part) if controllers else _v2(mount / part)


def _v2(group: Path) -> float:
    """``max 100000`` or ``150000 100000``.

    Raises:
        OSError: there is no such group, as at the root.
        ValueError: it has no limit.
    """
    quota, period = (group / "cpu.max").read_text().split()
    return int(quota) / int(period)


def _v1(group: Path) -> float:
    """The two files of the first version; a quota of -1 is none. Raises as ``_v2``."""
    quota = int((group / "cpu.cfs_quota_us").read_text())
    if quota <= 0:
        raise ValueError(quota)
    return quota / int((group / "cpu.cfs_period_us").read_text())
