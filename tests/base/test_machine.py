import subprocess
import types

import pytest

from segdeploy.base import machine
from segdeploy.base.machine import Gpu, compute_threads, cpu_flags, cpu_quota, local_gpu, physical_cores, usable_cpus


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """A machine of (CPUs that may be used, files below its root): its root."""

    def make(cpus, **files):
        monkeypatch.setattr(machine, "_allowed_cpus", lambda: set(cpus))
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return tmp_path

    return make


def files_of(siblings):
    """The topology of CPUs: for each the list of those on its core."""
    return {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in siblings.items()}


HYPERTHREADS = files_of({0: "0,4\n", 1: "1,5\n", 2: "2,6\n", 3: "3,7\n", 4: "0,4\n", 5: "1,5\n", 6: "2,6\n", 7: "3,7\n"})
V2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
    "sys/fs/cgroup/a/cpu.max": "250000 100000\n",
}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/\n3:cpuset:/\n1:cpu,cpuacct:/docker/x\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (V2, 2.5),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (V1, 3.0),
        ({**V1, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, None),
        (
            {
                **V1,
                "proc/self/cgroup": "1:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            2.0,
        ),
    ],
)
def test_the_quota(pretend, files, quota):
    """Of both versions of control groups, of a group and those above it the narrowest, in a container its own mount."""
    assert cpu_quota(pretend({0}, **files)) == quota


@pytest.mark.parametrize(
    ("cpus", "files", "usable", "threads"),
    [
        (range(8), HYPERTHREADS, 8, 4),
        ((0, 4), HYPERTHREADS, 2, 1),
        ((0, 1, 4), HYPERTHREADS, 3, 2),
        (range(8), {}, 8, 8),
        (range(8), {**HYPERTHREADS, **V2}, 2, 2),
        (range(8), {**HYPERTHREADS, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 1),
    ],
)
def test_cpus_and_cores(pretend, cpus, files, usable, threads):
    """Affinity and quota bound both; threads that compute are one a physical core."""
    root = pretend(cpus, **files)
    assert usable_cpus(root) == usable
    assert compute_threads(root=root) == threads


def test_they_are_divided_among_workers(pretend):
    """Four cores: two each for two workers, one each for more than there are cores."""
    root = pretend(range(8), **HYPERTHREADS)
    assert [compute_threads(workers, root) for workers in (1, 2, 3, 4, 9)] == [4, 2, 1, 1, 1]


def test_this_machine():
    """What this process may use, not what the machine has."""
    assert 1 <= compute_threads() <= physical_cores() <= len(machine._allowed_cpus())
    assert usable_cpus() <= len(machine._allowed_cpus())


def test_instructions(tmp_path):
    """Linux's names, on x86 and on Arm; nothing where there is no such file."""
    assert cpu_flags(tmp_path) == frozenset()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: X\nflags\t\t: fpu avx512_bf16 vnni\n\nflags\t: other\n")
    assert cpu_flags(tmp_path) == {"fpu", "avx512_bf16", "vnni"}
    (tmp_path / "proc/cpuinfo").write_text("Features\t: asimd bf16\n")
    assert "bf16" in cpu_flags(tmp_path)


@pytest.mark.parametrize(
    ("answer", "gpu"),
    [
        ("NVIDIA L4, 8.9\n", Gpu("NVIDIA L4", "sm89")),
        ("NVIDIA H200, 9.0\nNVIDIA L4, 8.9\n", Gpu("NVIDIA H200", "sm90")),
        ("RTX, 12.0\n", Gpu("RTX", "sm120")),
        ("Odd, name, 8.6\n", Gpu("Odd, name", "sm86")),
        ("", None),
        ("No devices were found\n", None),
    ],
)
def test_the_gpu_as_the_driver_names_it(monkeypatch, answer, gpu):
    """Name and compute capability of the first GPU, or none."""
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout=answer))
    assert local_gpu() == gpu


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, None), ("1,0", "--id=1"), ("GPU-ab12", "--id=GPU-ab12"), ("", "--id=-1"), ("-1", "--id=-1")]
)
def test_the_gpu_that_cuda_would_take(monkeypatch, visible, asked):
    """CUDA_VISIBLE_DEVICES says which GPU is CUDA's first, or that there is none; the driver's tool does not look at it."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = []

    def run(command, **_):
        seen.extend(word for word in command if word.startswith("--id"))
        return types.SimpleNamespace(stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    local_gpu()
    assert seen == ([asked] if asked else [])


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.TimeoutExpired("x", 1), subprocess.CalledProcessError(9, "x")]
)
def test_no_driver(monkeypatch, error):
    """A missing, hanging or failing nvidia-smi means that there is no GPU."""

    def run(*a, **k):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    assert local_gpu() is None
