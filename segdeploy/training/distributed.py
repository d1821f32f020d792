"""Several processes: who this one is (torchrun, Slurm), how they meet, and how they are started."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segdeploy.base.errors import InputError
from segdeploy.base.machine import compute_threads


@dataclass(frozen=True)
class Place:
    """Where this process stands among those that train together.

    Attributes:
        rank: its number, 0 being the one that writes.
        local_rank: its number on this machine, and that of its GPU.
        world: how many there are.
        address: host:port where rank 0 listens.
    """

    rank: int
    local_rank: int
    world: int
    address: str


def place_from(environ: Mapping[str, str]) -> Place | None:
    """The place that torchrun or ``srun`` gave this process; None where it was started alone.

    Raises:
        InputError: Slurm's node list cannot be read.
    """
    port = environ.get("MASTER_PORT", "29500")
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return Place(
            int(environ["RANK"]),
            int(environ.get("LOCAL_RANK", "0")),
            int(environ["WORLD_SIZE"]),
            f"{environ.get('MASTER_ADDR', '127.0.0.1')}:{port}",
        )
    # Set in a step that srun started, not in the batch script around it.
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environ:
        host = environ.get("MASTER_ADDR") or _first_host(environ.get("SLURM_STEP_NODELIST", ""))
        return Place(
            int(environ["SLURM_PROCID"]),
            int(environ.get("SLURM_LOCALID", "0")),
            int(environ["SLURM_STEP_NUM_TASKS"]),
            f"{host}:{port}",
        )
    return None


@contextlib.contextmanager
def connected(place: Place | None) -> Iterator[None]:
    """Join the process group: NCCL where there is CUDA, gloo on CPUs. Does nothing for a process alone.

    Raises:
        InputError: there is no GPU for this process.
    """
    if place is None:
        yield
        return
    import torch
    from torch import distributed

    cuda = torch.cuda.is_available()
    if cuda:
        if place.local_rank >= torch.cuda.device_count():
            raise InputError(
                expected=f"a GPU for each process of this machine (process {place.local_rank})",
                got=f"{torch.cuda.device_count()}",
                fix="start fewer processes",
            )
        torch.cuda.set_device(place.local_rank)
    host, _, port = place.address.rpartition(":")
    # torchrun has set them. Under Slurm they are not there, and MMEngine reads some of them too.
    for name, value in (
        ("RANK", place.rank),
        ("LOCAL_RANK", place.local_rank),
        ("WORLD_SIZE", place.world),
        ("MASTER_ADDR", host),
        ("MASTER_PORT", port),
    ):
        os.environ[name] = str(value)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def launch(arguments: Sequence[str], *, processes: int, nodes: int = 1, node_rank: int = 0, master: str = "127.0.0.1:0") -> int:
    """Start ``segdeploy ARGUMENTS`` once a process, through torchrun's own launcher, and wait.

    Args:
        arguments: the command line of each.
        processes: on this machine.
        nodes: machines in all; the same command runs on each, with its own ``node_rank``.
        node_rank: this machine's number.
        master: host:port of machine 0; port 0 (any free one) where there is one machine.

    Returns:
        The exit status: of the first process that failed, or 0.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each process prints its own line; the launcher's report of a failed child would bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(compute_threads(processes)))
    several = nodes > 1
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id="segdeploy",
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=master if several else "localhost:0",
        rdzv_configs={"rank": node_rank, "timeout": 900} if several else {},
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
        local_addr=None if several else "127.0.0.1",
    )
    try:
        elastic_launch(config, sys.executable)("-m", "segdeploy", *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return 128 - code if code < 0 else code  # a negative one names a signal
    except SignalException:
        return 130
    return 0


def _first_host(nodes: str) -> str:
    try:
        answer = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            expected=f"the first host of Slurm's '{nodes}', from scontrol", got=str(error), fix="set MASTER_ADDR"
        ) from error
    return answer.stdout.split()[0]
