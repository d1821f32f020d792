"""model-config.yaml: how TorchServe runs the workers of one archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from segdeploy.artifact.manifest import Manifest
from segdeploy.base.errors import InputError

NAME = "model-config.yaml"


@dataclass(frozen=True)
class ModelConfig:
    """How the workers of an archive are run. What it says wins over ``config.properties``.

    Attributes:
        workers: processes; they share the CPU's threads.
        batch_size: most requests that are run together.
        max_batch_delay_ms: how long a request waits for others. With batches, a lone request always waits so long.
        queue_size: requests that may wait; the next one is told 503.
        response_timeout_s: after which a silent worker is started again.
        startup_timeout_s: within which a worker must have loaded the model.
        device: what kind of device the workers are given; None for a GPU where the machine has one.
    """

    workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 10
    queue_size: int = 100
    response_timeout_s: int = 120
    startup_timeout_s: int = 180
    device: Literal["cpu", "gpu"] | None = None

    def values(self) -> dict[str, int | str]:
        """By TorchServe's names."""
        found: dict[str, int | str] = {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay_ms,
            "jobQueueSize": self.queue_size,
            "responseTimeout": self.response_timeout_s,
            "startupTimeout": self.startup_timeout_s,
        }
        return found | ({"deviceType": self.device} if self.device else {})

    def text(self) -> str:
        """The file's content."""
        return "".join(f"{name}: {value}\n" for name, value in self.values().items())


def device_of(manifest: Manifest) -> Literal["cpu", "gpu"] | None:
    """The kind of device that an artifact is bound to; None for either."""
    if manifest.target is not None:
        return "cpu" if manifest.target.device == "cpu" else "gpu"
    if manifest.format == "openvino":
        return "cpu"
    return "gpu" if manifest.format == "tensorrt" else None


def changed(text: str, changes: Mapping[str, int | str]) -> tuple[str, dict[str, Any]]:
    """A model-config.yaml with some values replaced, and all that it says then.

    Raises:
        InputError: it is none.
    """
    import yaml

    try:
        found = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        found = str(error).splitlines()[0]
    if not isinstance(found, dict):
        raise InputError(
            expected=f"names and values in the archive's {NAME}", got=str(found)[:80], fix="pack it again: segdeploy pack"
        )
    values = {**found, **changes}
    return yaml.safe_dump(values, sort_keys=False), values
