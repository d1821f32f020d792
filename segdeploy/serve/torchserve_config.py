"""TorchServe's ``config.properties`` and its declaration of metrics, with settings that are safe where its own are not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segdeploy.base.errors import MissingExtraError
from segdeploy.base.files import write_file
from segdeploy.serve.metrics import METRICS, Metric

HOST = "127.0.0.1"
DEFAULT_PORT = 8080
CONFIG_NAME = "config.properties"
METRICS_NAME = "metrics.yaml"
LOG_CONFIG = Path(__file__).parent / "torchserve_log.xml"
# Of a request's body, and of an answer: TorchServe ends the worker that sends more, so that ours says it instead.
LARGEST_MESSAGE_BYTES = 64 << 20
# Tokens are made anew at every start; TorchServe's hour would end a service that runs longer.
_TOKENS_LAST_MIN = 10 * 365 * 24 * 60
_ENVIRONMENT = ("cpu", "memory", "disk", "gpu")  # what TorchServe's own collector measures, in the names of its metrics


@dataclass(frozen=True)
class Addresses:
    """Where TorchServe's interfaces listen: a URL of HTTP, or ``unix:`` and a path. Two servers may share none of them.

    gRPC cannot be switched off: it is kept on loopback, and asks for the tokens too.
    """

    inference: str = f"http://{HOST}:{DEFAULT_PORT}"
    management: str = f"http://{HOST}:{DEFAULT_PORT + 1}"
    metrics: str = f"http://{HOST}:{DEFAULT_PORT + 2}"
    grpc_inference: int = 7070
    grpc_management: int = 7071


def write_config(
    path: Path, store: Path, addresses: Addresses, *, tokens: bool = True, model_api: bool = False, further: Path | None = None
) -> None:
    """Write ``config.properties``, and the metrics' declaration beside it.

    Models come from the store alone (by default TorchServe loads any URL that it is told), none is registered or removed at
    run time, nothing is installed, environment variables change nothing, and whoever asks must have a token.

    Args:
        path: the file.
        store: the model store.
        addresses: where to listen.
        tokens: whether a token must come with every request, /ping and the management's among them. Never /metrics.
        model_api: whether models may be registered and removed at run time, by whoever has the management's token.
        further: a folder whose archives may be registered too.

    Raises:
        InputError: the folder cannot be written.
        MissingExtraError: TorchServe is not installed.
    """
    metrics = path.parent / METRICS_NAME
    write_file(metrics, metrics_text())
    lines = {
        "inference_address": addresses.inference,
        "management_address": addresses.management,
        "metrics_address": addresses.metrics,
        "grpc_inference_address": HOST,
        "grpc_management_address": HOST,
        "grpc_inference_port": str(addresses.grpc_inference),
        "grpc_management_port": str(addresses.grpc_management),
        "disable_token_authorization": _word(not tokens),
        "token_expiration_min": str(_TOKENS_LAST_MIN),
        "enable_model_api": _word(model_api),
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "allowed_urls": ",".join(_inside(folder) for folder in (store, *([further] if further else []))),
        "max_request_size": str(LARGEST_MESSAGE_BYTES),
        "max_response_size": str(LARGEST_MESSAGE_BYTES),
        "default_workers_per_model": "1",
        # It starts a Python with torch inside every minute, to say what any machine's own monitoring says.
        "disable_system_metrics": "true",
        # At tens of requests a second the second compiler never has done: it would take as much of a core as serving does.
        "vmargs": "-XX:TieredStopAtLevel=1",
        "metrics_mode": "prometheus",
        "metrics_config": str(metrics.resolve()),
    }
    write_file(path, "".join(f"{key}={_escaped(value)}\n" for key, value in lines.items()))


def _inside(folder: Path) -> str:
    """A regular expression for the files in a folder; TorchServe takes commas for the end of it."""
    return f"file://{re.escape(str(folder.resolve())).replace(',', '.')}/.*"


def _escaped(value: str) -> str:
    """As Java reads its properties: in Latin-1, and a backslash is no letter."""
    return "".join(one if one.isascii() else f"\\u{ord(one):04x}" for one in value.replace("\\", "\\\\"))


def _word(yes: bool) -> str:
    return "true" if yes else "false"


def metrics_text() -> str:
    """The declaration: TorchServe's own metrics, less those of the machine, and the predictor's. Others are not exported.

    Raises:
        MissingExtraError: TorchServe is not installed.
    """
    import yaml

    found = find_spec("ts")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(package="torchserve", extra="serve", purpose="serving")
    own = yaml.safe_load((Path(found.submodule_search_locations[0]) / "configs" / METRICS_NAME).read_text())
    server = {
        kind: [one for one in metrics if not str(one["name"]).lower().startswith(_ENVIRONMENT)]
        for kind, metrics in own["ts_metrics"].items()
    }
    model: dict[str, list[dict[str, Any]]] = {kind: list(metrics) for kind, metrics in own["model_metrics"].items()}
    for metric in METRICS:
        model.setdefault(metric.kind, []).append(_declared(metric))
    metrics = [one for kinds in (server, model) for some in kinds.values() for one in some]
    dimensions = sorted({name for one in metrics for name in one["dimensions"]})
    return yaml.safe_dump({"dimensions": dimensions, "ts_metrics": server, "model_metrics": model}, sort_keys=False)


def _declared(metric: Metric) -> dict[str, Any]:
    return {"name": metric.name, "unit": metric.unit, "dimensions": list(metric.labels)}
