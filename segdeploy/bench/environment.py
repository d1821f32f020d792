"""What a latency depends on beside the model: the machine, its load, the versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segdeploy.base.machine import cpu_model, usable_cpus
from segdeploy.bench.result import Environment, Load
from segdeploy.runtime.backend import running_versions

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_NVIDIA_SMI_TIMEOUT_S = 20


def read_environment() -> Environment:
    """Look at the machine as it is now; what is only known after the run is left open in ``load``."""
    return Environment(
        cpu=cpu_model(),
        cpus=usable_cpus(),
        memory_bytes=_memory_bytes(),
        governor=_first_line(_GOVERNOR),
        gpus=_gpus(),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=running_versions(),
        load=Load(before=load_average(), after=None, other_cpus=None, cpus=os.cpu_count()),
    )


def load_average() -> float | None:
    """Over the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


class OtherLoad:
    """How many CPUs everything but the benchmark keeps busy, from now on.

    A latency taken beside another program can be steady and yet several times too long: neither the spread of the values
    nor a load average, which is about the past, would show it.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = (os.getpid(), *pids)
        self._start = self._now()

    def cpus(self) -> float | None:
        """The mean so far; None where there is no /proc, or one of the processes has ended."""
        now = self._now()
        if self._start is None or now is None:
            return None
        wall_s, busy_s, own_s = (after - before for before, after in zip(self._start, now, strict=True))
        return round(max(busy_s - own_s, 0) / max(wall_s, 1e-3), 2)

    def _now(self) -> tuple[float, float, float] | None:
        """Seconds: of the wall, of all CPUs' work, of the benchmark's own processes' work."""
        try:
            # user nice system idle iowait irq softirq steal; see proc(5)
            ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
            busy = sum(ticks) - ticks[3] - ticks[4]
            own = 0
            for pid in self._pids:
                # The name, in parentheses, may hold anything; user and system time are the 12th and 13th word behind it.
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                own += int(words[11]) + int(words[12])
        except (OSError, ValueError, IndexError):
            return None
        tick = os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy / tick, own / tick


def _memory_bytes() -> int | None:
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _first_line(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text().strip() or None
    return None


def _gpus() -> tuple[str, ...]:
    """Asked of the driver's own tool, so that the benchmark's process need not load CUDA."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True)
        return tuple(text.strip() for text in done.stdout.splitlines() if text.strip())
    return ()
