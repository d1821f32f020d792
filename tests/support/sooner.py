"""The same, sooner."""

from __future__ import annotations

import functools
import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def settled_heap():
    """What is there when the tests of a module begin is walked by no collection any more.

    A worker ends up with a million objects of torch, mmseg and their like, and each full collection walked them all;
    mmengine alone asks for several a training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def remembered_configs():
    """What mmengine makes of the same text, or finds under the same name, is made and found once: half of a tiny training.

    It formats the config as Python seven times a run, and reads the index of all of mmseg's configs for each base of one.
    """
    from mmengine.config import config
    from yapf.yapflib import yapf_api

    format_code = yapf_api.FormatCode
    remembered = functools.cache(lambda text, style: format_code(text, style_config=dict(style)))

    def remembering(text, style_config):
        return remembered(text, tuple(style_config.items()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, "FormatCode", remembering)
        patch.setattr(config, "_get_external_cfg_path", functools.cache(config._get_external_cfg_path))
        yield
