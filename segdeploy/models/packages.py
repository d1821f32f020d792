"""The one place that imports the OpenMMLab packages, so that their quirks are dealt with once."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings

from segdeploy.base.errors import MissingExtraError


def load_mmseg() -> None:
    """Import mmseg, register its modules, and make ``mmseg::`` config names resolve to the maintained package.

    Raises:
        MissingExtraError: where mmseg is not installed.
    """
    already = "mmseg.datasets" in sys.modules  # a part of mmseg alone may have been imported without registering anything
    # On import the maintained fork prints about an optional package of its own; that is nothing a user should see.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mmengine.config.utils
            import mmseg
            from mmengine.registry import init_default_scope
            from mmseg.utils import register_all_modules
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                package=error.name or "mmseg", extra="train", purpose="building and training mmseg models"
            ) from error
        if not already:
            register_all_modules(init_default_scope=False)
        init_default_scope("mmseg")
    del mmseg
    mmengine.config.utils.MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"
