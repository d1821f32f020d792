"""MMEngine's Runner, made exact and safe: seeded by position, checkpoints written whole, checkpoints read as plain data.

Imports MMEngine as a whole, so that classes can be derived from it: only ``train`` imports this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast, is_distributed, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner

from segdeploy.base.errors import CheckpointError, InputError
from segdeploy.base.files import write_file
from segdeploy.base.progress import say
from segdeploy.models.checkpoint import load_plain
from segdeploy.training.loops import ExactEpochLoop
from segdeploy.training.resuming import Plan, rate_at_the_end
from segdeploy.training.seeding import SeededDataset, seed_everything, seeded_sampler
from segdeploy.training.stopping import STOPPED_NAME
from segdeploy.training.weights import fit_weights, local_file


class ExactRunner(Runner):
    """A Runner whose resumed runs are the runs they continue."""

    def register_hook(self, hook: Hook | dict[str, Any], priority: Any = None) -> None:
        """As MMEngine does, with our order of writing in place of its CheckpointHook's."""
        if isinstance(hook, dict) and hook.get("type") == "CheckpointHook":
            hook = {**hook, "type": WholeCheckpointHook}
        super().register_hook(hook, priority)

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
        """As MMEngine does, with samples seeded by their place in the run. Loaders that do not shuffle stay as they are."""
        shuffles = isinstance(dataloader, dict) and (dataloader.get("sampler") or {}).get("shuffle", False)
        if not shuffles or "num_batch_per_epoch" in dataloader:  # part of an epoch has no place to seed from
            return Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        config = {
            **dataloader,
            "dataset": {"type": _seeded_dataset, "inner": dataloader["dataset"], "seed": seed},
            "sampler": {"type": _seeded_sampler, "inner": dataloader["sampler"]},
        }
        return Runner.build_dataloader(config, seed, diff_rank_seed)

    def build_train_loop(self, loop: Any) -> Any:
        """As MMEngine does, with an epoch that can be gone on with in its middle."""
        if isinstance(loop, dict) and loop.get("type") == "EpochBasedTrainLoop":
            loop = {**loop, "type": ExactEpochLoop}
        return super().build_train_loop(loop)

    def resume(self, filename: str, *more: Any, **named: Any) -> None:
        """As MMEngine does; then the learning rate follows what the config says now, which may be longer than the run was."""
        plan = Plan(self)
        super().resume(filename, *more, **named)
        changed = plan.follow(self)
        if is_main_process():
            say(_whence(self, filename, changed=changed))

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: Any) -> Any:
        """As MMEngine does; on CPUs without device ids, which DistributedDataParallel refuses there, and without SyncBN."""
        import torch

        if not self.distributed or torch.cuda.is_available() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        return MMDistributedDataParallel(
            module=revert_sync_batchnorm(model),
            broadcast_buffers=False,
            find_unused_parameters=bool(self.cfg.get("find_unused_parameters", False)),
        )

    def _init_model_weights(self) -> None:
        """Initialise what no checkpoint will fill: a download that is then overwritten is a download too many."""
        if self._resume:
            return
        model = self._bare_model()
        backbone = getattr(model, "backbone", None)
        if self._load_from is not None and backbone is not None:
            fit, _ = fit_weights(model, self._plain(self._load_from))
            if not any(name.startswith("backbone.") for name in fit.left):
                backbone.init_cfg = None
        try:
            super()._init_model_weights()
        except OSError as error:  # also a URLError: initial weights are mostly downloads
            raise CheckpointError(
                expected="the initial weights that the config names (pretrained, or init_cfg of type Pretrained)",
                got=str(error),
                fix="fetch them where there is a network, or pass --load-from CKPT or --cfg-options model.pretrained=None",
            ) from error

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",  # noqa: ARG002  tensors are copied to where the model's are
        strict: bool = False,  # noqa: ARG002
        revise_keys: Any = None,  # noqa: ARG002
    ) -> Any:
        """Load weights from plain data; what does not fit is said, and refused where a run is resumed.

        Raises:
            CheckpointError: it cannot be read, nothing of it fits, or a run to resume has other weights.
        """
        checkpoint = self._plain(filename)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self._bare_model()
        fit, weights = fit_weights(model, checkpoint)
        self.logger.info("\n".join([f"Load checkpoint from {filename}", *fit.lines()]))
        if not weights or (self._resume and fit.left):
            raise CheckpointError(
                expected=f"the weights of this model in '{filename}'",
                got=fit.summary(),
                fix="pass the config of that run" if self._resume else "pass a checkpoint of the same kind of model",
            )
        if not self._resume and is_main_process():
            say("\n".join([f"{filename}: {fit.summary()}", *fit.lines()[:12]]))
        model.load_state_dict(weights, strict=False)
        self._has_loaded = True
        return checkpoint

    def _plain(self, filename: str) -> dict[str, Any]:
        return dict(load_plain(local_file(filename)))

    def _bare_model(self) -> Any:
        return self.model.module if is_model_wrapper(self.model) else self.model


def _whence(runner: Runner, filename: str, *, changed: bool) -> str:
    """One line: where a run goes on, and the learning rates now and at the end."""
    by_epoch = "max_epochs" in runner.cfg.train_cfg
    at = f"epoch {runner.epoch} of {runner.max_epochs}, " if by_epoch else ""
    now = runner.optim_wrapper.param_groups[0]["lr"]
    told = "; its schedule follows the new length" if changed else ""
    return (
        f"resumed from {Path(filename).name}: {at}iteration {runner.iter:,} of {runner.max_iters:,}; "
        f"learning rate {now:.4g} now, {rate_at_the_end(runner):.4g} at the end{told}"
    )


def _seeded_dataset(inner: Any, seed: int) -> SeededDataset:
    dataset = DATASETS.build(inner)
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    return SeededDataset(dataset, seed)


def _seeded_sampler(inner: Any, dataset: SeededDataset, seed: int | None) -> Any:
    return seeded_sampler(DATA_SAMPLERS.build(inner, default_args={"dataset": dataset, "seed": seed}), len(dataset))


class WholeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook in an order that survives a kill: what ``last_checkpoint`` names is always there and whole.

    MMEngine removes the outdated file before it writes the new one, and writes ``last_checkpoint`` in place.
    """

    def before_train(self, runner: Any) -> None:
        """As MMEngine does. A resumed run remembers its best file as a path; the folder may have been moved or copied since."""
        super().before_train(runner)
        if not self.save_best:
            return
        single = len(self.key_indicators) == 1
        for key, path in ({"": self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)).items():
            if path:
                self._set_best({key: str(Path(self.out_dir) / Path(path).name)})

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        outdated = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = str(Path(self.out_dir) / filename)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            **self.args,
        )
        if not is_main_process():
            return
        write_file(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt)
        (Path(runner.work_dir) / STOPPED_NAME).unlink(missing_ok=True)  # it has a successor now
        if outdated is not None:
            (Path(self.out_dir) / self.filename_tmpl.format(outdated)).unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Any, metrics: Mapping[str, Any]) -> None:
        if not self.save_best:
            return
        # The best file so far is hidden from MMEngine, which would remove it first, and goes once its successor is there.
        single = len(self.key_indicators) == 1
        before = {"": self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        self._set_best(dict.fromkeys(before))
        super()._save_best_checkpoint(runner, metrics)
        after = {"": self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        self._set_best({key: after[key] or before[key] for key in before})
        for key, path in before.items():
            if path and after[key] and after[key] != path and is_main_process():
                Path(path).unlink(missing_ok=True)

    def _set_best(self, paths: Mapping[str, Any]) -> None:
        if "" in paths:
            self.best_ckpt_path = paths[""]
        else:
            self.best_ckpt_path_dict.update(paths)


class PositionHook(Hook):
    """Seeds each step from where it is in the run, and lets every process validate the weights that are saved."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002  MMEngine's
        """Dropout of this step: from (seed, iteration, rank)."""
        seed_everything(runner.seed, runner.iter, runner.rank)

    def before_val(self, runner: Any) -> None:
        """BatchNorm's statistics are each process' own while it trains; rank 0's are in the checkpoint."""
        if is_distributed():
            for buffer in runner.model.buffers():
                broadcast(buffer, 0)


class LabelHook(Hook):
    """Stops a run at a label that the model has no class for: the loss would fail on it, and the mIoU would pass over it."""

    def before_train(self, runner: Any) -> None:
        """Ask the model how many classes it has."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head: Any = getattr(model, "decode_head", None)
        head = head[-1] if hasattr(head, "__getitem__") else head  # a cascade's last
        self._classes = max(int(head.num_classes), 2) if hasattr(head, "num_classes") else None  # a sigmoid's one has 0 and 1
        self._void = getattr(head, "ignore_index", 255)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002  MMEngine's
        """Look at the labels of a batch.

        Raises:
            InputError: names the image.
        """
        self._check(data_batch)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:  # noqa: ARG002
        """As in training."""
        self._check(data_batch)

    def _check(self, batch: Any) -> None:
        if self._classes is None:
            return
        for sample in (batch or {}).get("data_samples", []):
            label = getattr(getattr(sample, "gt_sem_seg", None), "data", None)
            if label is None:
                continue
            beyond = (label >= self._classes) & (label != self._void)
            if beyond.any():
                raise InputError(
                    expected=f"labels 0 to {self._classes - 1} in '{getattr(sample, 'seg_map_path', sample.img_path)}'",
                    got=f"label {int(label[beyond].min())}",
                    fix="mend it; segdeploy data check CONFIG lists all that is wrong with the data set",
                )


@contextmanager
def whole_files() -> Iterator[None]:
    """A run that is killed leaves no half a checkpoint: MMEngine's files are written beside their place, then renamed."""
    original = LocalBackend.put
    LocalBackend.put = lambda _self, obj, filepath: write_file(Path(filepath), bytes(obj))
    try:
        yield
    finally:
        LocalBackend.put = original
