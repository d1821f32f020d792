"""``segdeploy serve --engine ray``."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

import click

from segdeploy.cli.options import warn_of_random_weights
from segdeploy.cli.serve_page import page_beside


def serve_ray(
    folder: Path,
    replicas: str,
    told: dict[str, Any],
    where: dict[str, Any],
    *,
    no_token: bool,
    unverified: bool,
    page_port: int | None,
) -> None:
    """Serve an artifact until Ctrl-C.

    Args:
        folder: the artifact's.
        replicas: ``N`` or ``MIN:MAX``.
        told: fields of ``RaySettings``; ``name`` and ``cpus`` may be None.
        where: what ``start_ray`` takes; ``token_file`` None for a temporary place.
        no_token: ask for no token.
        unverified: in spite of its verdict.
        page_port: of a page beside it, 0 for a free one; None for no page.
    """
    from segdeploy.artifact.folder import open_artifact
    from segdeploy.base.machine import usable_cpus
    from segdeploy.serve.archive import check_name, check_packable
    from segdeploy.serve.ray_app import RaySettings
    from segdeploy.serve.ray_server import follow_ray, start_ray

    least, most = parse_replicas(replicas)
    artifact = open_artifact(folder)
    warn_of_random_weights(artifact)
    check_packable(artifact, unverified=unverified)
    name = told.pop("name") or re.sub(r"[^A-Za-z0-9._-]+", "_", artifact.manifest.name).strip("._-")
    check_name(name, fix="choose another --name")
    cpus = told.pop("cpus") or max(1, usable_cpus() // most)
    settings = RaySettings(str(folder.resolve()), name, least, most, cpus, **told)
    click.echo(f"starting Ray Serve with {folder} ...", err=True)
    with tempfile.TemporaryDirectory(prefix="segdeploy-token-") as place:
        header = None if no_token else where["token_file"] or Path(place) / "authorization"
        with start_ray(settings, **{**where, "token_file": header}) as server:
            shown = f"-H @{header} " if header else ""
            click.echo(f"ready: {server.url}")
            click.echo(f"  curl -s {shown}{server.url} -T IMAGE.jpg -o mask.png")
            click.echo(f"Open Inference Protocol: {server.base}/v2/models/{name}")
            name_and_value = header.read_text().strip().split(": ", 1) if header else []
            passed = {name_and_value[0]: name_and_value[1]} if name_and_value else {}
            with page_beside(server.url, passed, page_port), contextlib.suppress(KeyboardInterrupt):
                follow_ray()
            click.echo("finishing what is being answered ...", err=True)
    click.echo("stopped", err=True)


def parse_replicas(text: str) -> tuple[int, int]:
    """The bounds in ``N`` or ``MIN:MAX``.

    Raises:
        InputError: it is neither.
    """
    from segdeploy.base.errors import InputError

    found = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", text)
    least = int(found[1]) if found else 0
    most = int(found[2] or least) if found else 0
    if not 1 <= least <= most:
        raise InputError(expected="--replicas N, or MIN:MAX from 1 on", got=f"'{text}'", fix="correct it")
    return least, most
