"""Making a TorchServe archive (.mar) from an artifact, and taking one apart."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from segdeploy.artifact.folder import MANIFEST_NAME, Artifact, record_packed
from segdeploy.base.errors import ArtifactError, InputError
from segdeploy.base.files import new_file
from segdeploy.serve import model_config
from segdeploy.serve.model_config import ModelConfig, device_of

HANDLER = Path(__file__).parent / "handler.py"
DEFAULT_VERSION = "1.0"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LARGEST_PALETTE = 256
_MANIFEST = "MAR-INF/MANIFEST.json"
# The earliest moment that a zip file can name: no archive tells when it was made, so that the same content is the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o100644 << 16


def pack(
    artifact: Artifact,
    *,
    name: str,
    out: Path,
    version: str = DEFAULT_VERSION,
    config: ModelConfig | None = None,
    unverified: bool = False,
) -> Path:
    """Make ``out/NAME.mar``: the artifact's files, the handler, and how to run it. The same content gives the same bytes.

    An older archive is replaced when the new one is complete.

    Args:
        artifact: an exported one.
        name: of the model, as it stands in the URL.
        out: the model store.
        version: of the model; a running server takes another archive of the same name only under another version.
        config: how to run it; the device is filled in where the artifact is bound to one.
        unverified: pack it in spite of what its verdict lacks; its manifest, the packed one too, then says so for ever.

    Returns:
        The archive's path.

    Raises:
        InputError: a name or a version that TorchServe does not take, or a folder that cannot be written.
        ArtifactError: not an exported artifact, or one whose parity was not passed.
    """
    check_name(name, fix="choose another --name")
    if not _NAME.fullmatch(version):
        raise InputError(expected="a version of letters, digits, '.', '_' and '-'", got=f"'{version}'", fix="such as 2.0")
    check_packable(artifact, unverified=unverified)
    lacking = concerns(artifact)
    if lacking:
        artifact = record_packed(artifact, [f"{one} (--unverified)" for one in lacking])
    settings = config or ModelConfig()
    settings = replace(settings, device=settings.device or device_of(artifact.manifest))
    model = {
        "modelName": name,
        "serializedFile": artifact.manifest.files[0].path,
        "handler": HANDLER.name,
        "modelVersion": version,
        "configFile": model_config.NAME,
    }
    # As torch-model-archiver writes it. TorchServe refuses an archive that does not say when it was made.
    written = {"createdOn": "01/01/1980 00:00:00", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    place = out / f"{name}.mar"
    with new_file(place) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for path in (MANIFEST_NAME, *(entry.path for entry in artifact.manifest.files)):
            _add(packed, path, artifact.folder / path)
        _add(packed, HANDLER.name, HANDLER)
        packed.writestr(_entry(model_config.NAME), settings.text())
        packed.writestr(_entry(_MANIFEST), json.dumps(written, indent=2))
    return place


def _entry(name: str) -> zipfile.ZipInfo:
    """Stored as it is: weights hardly shrink, and a compressor's next version would give other bytes."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = _READABLE
    entry.create_system = 3  # Unix, wherever it is made
    return entry


def _add(packed: zipfile.ZipFile, name: str, path: Path) -> None:
    entry = _entry(name)
    entry.file_size = path.stat().st_size  # from 2 GiB on the header has another form, which must be known before
    with path.open("rb") as source, packed.open(entry, "w") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def unpack(archive: Path, folder: Path, changes: Mapping[str, int | str]) -> tuple[str, dict[str, Any]]:
    """Take an archive apart, with other values in its model-config.yaml.

    Args:
        archive: a .mar.
        folder: a new one, that its files come to.
        changes: by TorchServe's names; empty for the archive's own.

    Returns:
        The model's version, and all that its model-config.yaml says then.

    Raises:
        InputError: it is no archive of a model, or a name in it leads out of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                _check_inside(archive, entry.filename)
            packed.extractall(folder)
        described = json.loads((folder / _MANIFEST).read_text())
        version = str(described["model"]["modelVersion"])
        told = described["model"].setdefault("configFile", model_config.NAME)
        _check_inside(archive, told)
        (folder / _MANIFEST).write_text(json.dumps(described))
        path = folder / told
        text, values = model_config.changed(path.read_text() if path.is_file() else "", changes)
        path.write_text(text)
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            expected=f"a model's archive at '{archive}'",
            got=f"a damaged one ({type(error).__name__}: {error})",
            fix="make it again: segdeploy pack",
        ) from error
    return version, values


def _check_inside(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise InputError(
            expected=f"names that stay in the archive '{archive}'",
            got=f"'{name}'",
            fix="do not use it: whoever made it means to write somewhere else",
        )


def check_name(name: str, *, fix: str) -> None:
    """Refuse what cannot be a model's name in TorchServe's URLs.

    Raises:
        InputError: with ``fix`` as what to do.
    """
    if not _NAME.fullmatch(name):
        raise InputError(expected="a model name of letters, digits, '.', '_' and '-'", got=f"'{name}'", fix=fix)


def check_packable(artifact: Artifact, *, unverified: bool) -> None:
    """Refuse what should not be served.

    Raises:
        ArtifactError: with the reason.
    """
    if artifact.manifest.format == "eager":
        raise ArtifactError(
            expected="an exported artifact", got="a checkpoint", fix="export it first: segdeploy export --to onnx"
        )
    classes = len(artifact.manifest.classes)
    if classes > _LARGEST_PALETTE:
        raise ArtifactError(
            expected=f"at most {_LARGEST_PALETTE} classes, because the server answers with a palette PNG",
            got=f"{classes} in {artifact.name}",
            fix="run it without a server: segdeploy predict, or segdeploy.runtime.open_session",
        )
    lacking = concerns(artifact)
    if lacking and not unverified:
        raise ArtifactError(
            expected=f"a parity verdict of {artifact.name} that passed on pictures, at the default tolerances",
            got=", and ".join(lacking),
            fix="run: segdeploy verify --data DIR, or pass --unverified to serve it all the same",
        )


def concerns(artifact: Artifact) -> tuple[str, ...]:
    """What its verdict lacks before it should be served; empty for one that passed on pictures, at the default tolerances."""
    counting = artifact.manifest.verdict()
    if counting is None or counting.verdict != "passed":
        return (f"no passed parity verdict: {counting.verdict if counting else 'never verified'}",)
    found = ["its verdict is on seeded noise only"] if counting.noise else []
    chosen = ", ".join(f"{name} {getattr(counting.tolerance, name):g}" for name in counting.tolerance.overridden)
    return (*found, *([f"its verdict is at tolerances that were chosen: {chosen}"] if chosen else []))
