"""From a Checkpoint to an mmseg model."""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

from segdeploy.base.errors import CheckpointError, ConfigError
from segdeploy.models.checkpoint import Checkpoint
from segdeploy.models.packages import load_mmseg
from segdeploy.models.registry import INITIAL_WEIGHTS, without_imports
from segdeploy.models.supported import check_inference, fix_draws


def build_model(checkpoint: Checkpoint) -> Any:
    """Build the mmseg model in eval mode, on the CPU, with SyncBN reverted and without auxiliary heads.

    Returns:
        An ``mmseg.models.EncoderDecoder``, or a ``CascadeEncoderDecoder``.

    Raises:
        ConfigError: the model cannot be built from the config.
        CheckpointError: weights and config do not fit; names what differs.
    """
    load_mmseg()
    from mmengine.config import ConfigDict
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS

    config = copy.deepcopy(dict(checkpoint.config["model"]))
    # Only training uses them, and a deployed model should not carry them.
    config.pop("auxiliary_head", None)
    _drop_downloads(config)
    imports = contextlib.nullcontext() if checkpoint.config_trusted else without_imports()
    try:
        with warnings.catch_warnings(), imports:
            warnings.simplefilter("ignore")  # mmseg warns of its losses' defaults, which matter to training alone
            model = MODELS.build(ConfigDict(config))
    except (KeyError, TypeError, ValueError, AssertionError, ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            expected=f"a model that the installed mmseg can build, from {checkpoint.source}",
            got=f"{type(error).__name__}: {error}",
            fix="check the config's 'model', or install what it needs",
        ) from error
    check_inference(model)
    fix_draws(model, checkpoint.state_dict or {})
    if checkpoint.state_dict is not None:
        _load_weights(model, checkpoint)
    return revert_sync_batchnorm(model).eval()


def _load_weights(model: Any, checkpoint: Checkpoint) -> None:
    assert checkpoint.state_dict is not None
    weights = {k: v for k, v in checkpoint.state_dict.items() if not k.startswith("auxiliary_head.")}
    own = model.state_dict()
    problems = [f"{k} is missing" for k in own if k not in weights]
    problems += [f"{k} is not in the model" for k in weights if k not in own]
    problems += [
        f"{k} is {tuple(weights[k].shape)} where the model has {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            expected=f"weights that fit the config ({len(own)} tensors) in {checkpoint.source}",
            got=f"{len(problems)} that do not: {'; '.join(problems[:3])}{more}",
            fix="pass the config it was trained with: --config FILE",
        )
    model.load_state_dict(weights)


def _drop_downloads(config: Any) -> None:
    """Initial weights would be fetched and then overwritten by the checkpoint's. They may stand at any depth."""
    if isinstance(config, dict):
        for key in INITIAL_WEIGHTS:
            config.pop(key, None)
    for part in config.values() if isinstance(config, dict) else config:
        if isinstance(part, (dict, list, tuple)):
            _drop_downloads(part)
