"""The oracle: mmseg itself, by none of segdeploy's code."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def mmseg_model(checkpoint_path):
    """The tiny model as mmseg itself loads it, by none of segdeploy's code."""
    import torch
    from mmengine.config import Config
    from mmengine.model import revert_sync_batchnorm

    from segdeploy.models.packages import load_mmseg

    load_mmseg()
    from mmseg.apis import init_model

    text = torch.load(checkpoint_path, weights_only=True)["meta"]["cfg"]
    return revert_sync_batchnorm(init_model(Config.fromstring(text, ".py"), str(checkpoint_path), device="cpu"))


@pytest.fixture(scope="session")
def run_mmseg(tmp_path_factory, one_thread):
    """mmseg's own Runner.test() on a checkpoint with the config inside it: {aAcc, mIoU, mAcc}, rounded to two digits.

    With a pipeline, as mmseg's tools/test.py --tta does it. With ``own_data`` on the config's
    own data sets, as it has them.
    """

    def run(path, tta_pipeline=None, *, own_data=False, **dataset):
        import torch
        from mmengine.config import Config
        from mmengine.runner import Runner

        from segdeploy.models.packages import load_mmseg

        load_mmseg()
        # Made by these tests: history buffers and all may be unpickled.
        config = Config.fromstring(torch.load(path, weights_only=False)["meta"]["cfg"], ".py")
        loader = config.test_dataloader
        loader.update(num_workers=0, persistent_workers=False)
        given = {"data_prefix": {"img_path": "img_dir/val", "seg_map_path": "ann_dir/val"}} | dataset
        if not own_data:
            loader.dataset.update({key: str(v) if key == "data_root" else v for key, v in given.items()})
        if tta_pipeline is not None:
            loader.dataset.pipeline = tta_pipeline
            config.model = {"type": "SegTTAModel", "module": config.model}
        runner = Runner(
            model=config.model,
            work_dir=str(tmp_path_factory.mktemp("mmseg")),
            test_dataloader=loader,
            test_evaluator=config.test_evaluator,
            test_cfg={"type": "TestLoop"},
            default_hooks={"logger": None},
            load_from=str(path),
            default_scope="mmseg",
            log_level="ERROR",
            experiment_name=f"test_{path.stem}",
        )
        return dict(runner.test())

    return run


@pytest.fixture(scope="session")
def runner_scores(run_mmseg, checkpoint_path):
    """What mmseg says of the tiny checkpoint on the labelled pictures."""
    return run_mmseg(checkpoint_path)
