"""``pack --to ray``: a Serve config, and the RayService that KubeRay runs it by."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from segdeploy.artifact.folder import Artifact, record_packed
from segdeploy.base.errors import InputError, MissingExtraError, ServeError
from segdeploy.base.files import write_file
from segdeploy.serve.archive import check_name, check_packable, concerns
from segdeploy.serve.ray_app import RaySettings
from segdeploy.serve.ray_server import write_header

_PORT = 8000
_HEAD_MEMORY, _WORKER_MEMORY = "2Gi", "4Gi"
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        config: for ``serve deploy``, or inside the other.
        manifest: for ``kubectl apply``.
        header_file: the header that carries the token, for its owner alone: neither of the others has more than its hash.
    """

    config: Path
    manifest: Path
    header_file: Path


def pack_ray(artifact: Artifact, settings: RaySettings, *, image: str, out: Path, unverified: bool = False) -> Packed:
    """Write ``OUT/NAME.serve.yaml``, ``OUT/NAME.rayservice.yaml`` and ``OUT/NAME.authorization``.

    Args:
        artifact: what will be served.
        settings: how; ``settings.artifact`` is where the cluster finds it: a folder in the image, or an address in a bucket.
        image: with Ray and segdeploy, for every pod.
        out: the folder.
        unverified: pack it in spite of what its verdict lacks; its manifest then says so for ever.

    Raises:
        InputError: a name that Kubernetes does not take, or a folder that cannot be written.
        ArtifactError: not an exported artifact, or one whose parity was not passed.
        MissingExtraError: Ray, which checks the config, is not installed.
    """
    check_name(settings.name, fix="choose another --name")
    called = re.sub(r"[^a-z0-9]+", "-", settings.name.lower()).strip("-")
    if not _LABEL.fullmatch(called):
        raise InputError(expected="a --name of at most 42 letters and digits", got=f"'{settings.name}'", fix="choose another")
    if not settings.artifact.startswith("/") and "://" not in settings.artifact:
        got = f"'{settings.artifact}'"
        raise InputError(expected="--at with a folder from / on, or an address such as s3://...", got=got, fix="correct it")
    check_packable(artifact, unverified=unverified)
    lacking = concerns(artifact)
    token = secrets.token_urlsafe(32)
    settings = msgspec.structs.replace(settings, token_sha256=hashlib.sha256(token.encode()).hexdigest())
    config = _yaml(serve_config(settings))
    manifest = _yaml(ray_service(called, settings, config, image))
    if lacking:
        record_packed(artifact, [f"{one} (--unverified)" for one in lacking])
    packed = Packed(*(out / f"{settings.name}.{ending}" for ending in ("serve.yaml", "rayservice.yaml", "authorization")))
    write_file(packed.config, config)
    write_file(packed.manifest, manifest)
    write_header(packed.header_file, token)
    return packed


def serve_config(settings: RaySettings) -> dict[str, Any]:
    """The Serve config, as Ray's own schema takes it.

    Raises:
        MissingExtraError: Ray is not installed.
        ServeError: Ray refuses it.
    """
    try:
        from ray.serve.schema import ServeDeploySchema
    except ImportError as error:
        raise MissingExtraError(package="ray", extra="ray", purpose="checking a Serve config") from error
    args = {key: value for key, value in msgspec.to_builtins(settings).items() if value is not None}
    told = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": _PORT},  # noqa: S104  of a pod; a token is asked for
        "applications": [
            {"name": "segdeploy", "route_prefix": "/", "import_path": "segdeploy.serve.ray_app:build", "args": args}
        ],
    }
    try:
        ServeDeploySchema.model_validate(told)
    except ValueError as error:
        raise ServeError(expected="a config that Ray Serve takes", got=str(error), fix="report this") from error
    return told


def ray_service(name: str, settings: RaySettings, config: str, image: str) -> dict[str, Any]:
    """KubeRay's RayService: a head that computes nothing, and as many workers as there may be replicas."""
    import ray

    def pod(container: str, cpus: int, memory: str, gpus: int, **more: Any) -> dict[str, Any]:
        amounts: dict[str, Any] = {"cpu": str(cpus), "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
        return {
            "spec": {
                "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": container,
                        "image": image,
                        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}],
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "resources": {"limits": amounts, "requests": amounts},
                        **more,
                    }
                ],
            }
        }

    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": _PORT}
    shown = [{"name": called, "containerPort": port} for called, port in ports.items()]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name},
        "spec": {
            "serveConfigV2": config,
            "rayClusterConfig": {
                "rayVersion": ray.__version__,
                "enableInTreeAutoscaling": settings.max_replicas > settings.min_replicas,
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104  KubeRay asks it
                    "template": pod("ray-head", 1, _HEAD_MEMORY, 0, ports=shown),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "models",
                        "replicas": settings.min_replicas,
                        "minReplicas": settings.min_replicas,
                        "maxReplicas": settings.max_replicas,
                        "rayStartParams": {},
                        "template": pod("ray-worker", settings.cpus, _WORKER_MEMORY, settings.gpus),
                    }
                ],
            },
        },
    }


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, width=120))
