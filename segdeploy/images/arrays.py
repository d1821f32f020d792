"""What pictures, labels and logits are in memory. Axes: N images, H and W of an image, K classes, h and w of logits."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]  # [H, W, 3] RGB
Labels: TypeAlias = NDArray[Any]  # [H, W] uint8 (or int32 where there are more than 256 classes)
Logits: TypeAlias = NDArray[np.float32]  # [N, K, h, w]
