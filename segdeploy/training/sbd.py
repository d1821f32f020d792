"""The Semantic Boundaries Dataset's label maps: one MATLAB file an image.

Source: ``benchmark_RELEASE/README`` of SBD: ``GTcls.Segmentation`` holds 0 for background and 1 to 20 for VOC's classes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.base.errors import InputError

CLASSES = 21
_VOID = 255


def read_sbd_mask(path: Path) -> NDArray[np.uint8]:
    """The label map in an SBD ``cls/NAME.mat``.

    Returns:
        uint8 [H, W], VOC's classes 0 to 20; void (255) is let through, though SBD as published has none.

    Raises:
        InputError: missing, no MATLAB file, or of another structure.
    """
    from scipy.io import loadmat

    fix = "mend or replace it"
    wanted = f"SBD's GTcls.Segmentation, uint8 [H, W], in '{path}'"
    try:
        content = loadmat(io.BytesIO(path.read_bytes()), variable_names=["GTcls"])
    except OSError as error:
        raise InputError(expected=wanted, got=(error.strerror or str(error)).lower(), fix=fix) from error
    except Exception as error:  # scipy's reader fails on damaged files in every way that Python has
        raise InputError(expected=wanted, got=f"{type(error).__name__}: {error}", fix=fix) from error
    struct = content.get("GTcls")
    if struct is None or struct.size != 1 or "Segmentation" not in (struct.dtype.names or ()):
        raise InputError(expected=wanted, got="no GTcls with one Segmentation", fix=fix)
    mask = struct["Segmentation"].item()
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
        got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(expected=wanted, got=got, fix=fix)
    if mask.max() >= CLASSES and (strange := set(mask[mask >= CLASSES].tolist()) - {_VOID}):
        raise InputError(expected=f"labels 0 to {CLASSES - 1} in '{path}'", got=f"label {min(strange)}", fix=fix)
    return mask
