"""Making a TorchServe archive (.mar) from an artifact."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from segdeploy.artifact.folder import MANIFEST_NAME, Artifact, record_packed
from segdeploy.base.errors import ArtifactError, InputError, MissingExtraError, ServeError
from segdeploy.base.files import new_file

HANDLER = Path(__file__).parent / "handler.py"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = "1.0"
_LARGEST_PALETTE = 256


def pack(artifact: Artifact, *, name: str, out: Path, unverified: bool = False) -> Path:
    """Make ``out/NAME.mar``: the artifact's files and the handler. An older one is replaced when the new one is complete.

    Args:
        artifact: an exported one.
        name: of the model, as it stands in the URL.
        out: the model store.
        unverified: pack it in spite of what its verdict lacks; its manifest, the packed one too, then says so for ever.

    Returns:
        The archive's path.

    Raises:
        InputError: a name that TorchServe does not take, or a folder that cannot be written.
        ArtifactError: not an exported artifact, or one whose parity was not passed.
        MissingExtraError: torch-model-archiver is not installed.
        ServeError: the archiver failed.
    """
    check_name(name, fix="choose another --name")
    check_packable(artifact, unverified=unverified)
    if find_spec("model_archiver") is None:
        raise MissingExtraError(package="torch-model-archiver", extra="serve", purpose="making a .mar")
    lacking = concerns(artifact)
    if lacking:
        artifact = record_packed(artifact, [f"{one} (--unverified)" for one in lacking])
    place = out / f"{name}.mar"
    # The archiver builds in a fixed folder under the temp folder, where two builds of one name would collide.
    with tempfile.TemporaryDirectory(prefix="segdeploy-pack-") as scratch:
        staged = Path(scratch) / "extra-files"
        _stage(artifact, staged)
        command = [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", name, "--version", _VERSION, "--export-path", scratch, "--force"),
            *("--serialized-file", str(artifact.model_path), "--handler", str(HANDLER), "--extra-files", str(staged)),
        ]
        done = subprocess.run(
            command, env={**os.environ, "TMPDIR": scratch}, capture_output=True, text=True, errors="replace", check=False
        )
        made = Path(scratch) / f"{name}.mar"
        if done.returncode != 0 or not made.is_file():
            raise ServeError(
                expected="an archive from torch-model-archiver",
                got=(done.stderr.strip().splitlines() or ["nothing"])[-1],
                fix="check the disk's free space, and: segdeploy doctor",
            )
        with new_file(place) as temporary:
            shutil.copyfile(made, temporary)
    return place


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


def _stage(artifact: Artifact, folder: Path) -> None:
    """Link all but the model into one folder: the archiver takes commas and wildcards in the names of single files apart."""
    for path in (MANIFEST_NAME, *(entry.path for entry in artifact.manifest.files[1:])):
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((artifact.folder / path).resolve())
