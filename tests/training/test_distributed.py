"""Several processes on CPUs (gloo): the same training, the same mIoU, one voice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from segdeploy.base.errors import InputError
from segdeploy.training.distributed import place_from
from segdeploy.training.train import Settings, train

CONFIG = "upernet_r18_synthetic"
# Normalisation within a sample and no dropout: then the mean of two processes' gradients is the gradient of one.
GROUP_NORM = "{'type':'GN','num_groups':2}"
SEPARABLE = {
    "model.backbone.norm_cfg": GROUP_NORM,
    "model.decode_head.norm_cfg": GROUP_NORM,
    "model.decode_head.dropout_ratio": "0.0",
    # Not Adam, which turns a gradient of 1e-9 into a step as large as any other.
    "optim_wrapper.optimizer": "{'_delete_':True,'type':'SGD','lr':0.05,'momentum':0.9}",
}


def segdeploy(*arguments, **environment):
    """The command line in processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "segdeploy", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def arguments(work_dir, data, options, *more):
    pairs = [f"{key}={value}" for key, value in options.items()]
    return ["train", CONFIG, "--work-dir", work_dir, "--data-root", data, *more, *(["--cfg-options", *pairs] if pairs else [])]


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(synthetic, tmp_path, tiny, one_thread):
    """The same images a step, augmented alike, wherever they are computed: the same losses, weights and mIoU."""
    import torch

    shared = tiny | SEPARABLE | {"train_cfg.max_epochs": "2"}
    process = segdeploy(
        *arguments(tmp_path / "two", synthetic, shared | {"train_dataloader.batch_size": "2"}, "--processes", "2")
    )
    alone = train(
        CONFIG,
        Settings(work_dir=tmp_path / "one", data_root=synthetic, options=shared | {"train_dataloader.batch_size": "4"}),
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("a step") == 1, "one process speaks for all"
    one, two = (torch.load(tmp_path / name / "epoch_2.pth", weights_only=False)["state_dict"] for name in ("one", "two"))
    first = torch.load(tmp_path / "one" / "epoch_1.pth", weights_only=False)["state_dict"]
    moved = max(float((one[key] - first[key]).abs().max()) for key in one)
    apart = max(float((one[key] - two[key]).abs().max()) for key in one)
    assert apart < 1e-3 * moved
    assert float(out.splitlines()[1].split()[2]) == pytest.approx(alone.miou, abs=0.5)


@pytest.mark.slow
def test_two_machines_validate_what_is_saved(synthetic, tmp_path, tiny, run_mmseg):
    """Two launchers, as on two machines: the mIoU that they report is that of the checkpoint, by mmseg in one process.

    The five images of the validation set do not divide by two, and BatchNorm's statistics differ between the processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    options = tiny | {"train_dataloader.batch_size": "2"}
    machines = [
        segdeploy(*arguments(tmp_path / "run", synthetic, options, "--nodes", "2", "--node-rank", rank, "--master", master))
        for rank in (0, 1)
    ]
    (out, err), (silent, other) = (machine.communicate(timeout=300) for machine in machines)
    assert [machine.returncode for machine in machines] == [0, 0], err + other
    assert silent == ""
    voc = synthetic / "VOCdevkit" / "VOC2012"
    theirs = run_mmseg(
        tmp_path / "run" / "best_mIoU_epoch_1.pth",
        data_root=voc,
        data_prefix={"img_path": "JPEGImages", "seg_map_path": "SegmentationClass"},
    )
    assert float(out.splitlines()[1].split()[2]) == pytest.approx(theirs["mIoU"], abs=0.01)


@pytest.mark.slow
def test_one_process_diverges(synthetic, tmp_path, tiny):
    """A run that fails ends in all its processes, with the reason, exit 1 and no launcher's report."""
    options = tiny | {"optim_wrapper.optimizer.lr": "1e20", "train_dataloader.batch_size": "2"}
    process = segdeploy(*arguments(tmp_path / "run", synthetic, options, "--processes", "2"))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "expected a finite loss" in err
    assert "Traceback" not in err
    assert "ChildFailedError" not in err


def test_what_is_wrong_is_said_once(tmp_path):
    """A config that cannot be used is found before any process is started."""
    process = segdeploy(*arguments(tmp_path / "run", tmp_path / "none", {}, "--processes", "2"))
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "7"}, (3, 1, 4, "a:7")),
        # In the batch script around a step, the tasks are not there yet: it is no process of several.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "MASTER_ADDR": "node1"},
            (2, 0, 4, "node1:29500"),
        ),
    ],
)
def test_place(environ, expected):
    """torchrun's variables and srun's."""
    place = place_from(environ)
    assert (place and (place.rank, place.local_rank, place.world, place.address)) == expected


def test_slurm_without_its_tool():
    """Where the nodes cannot be listed, the way out is one line."""
    with pytest.raises(InputError, match="MASTER_ADDR"):
        place_from({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "n[1-2]", "PATH": ""})
