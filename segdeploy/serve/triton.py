"""Making a model repository for NVIDIA's Triton from an artifact."""

from __future__ import annotations

import secrets
import shlex
import shutil
from pathlib import Path

from segdeploy.artifact.folder import MANIFEST_NAME, Artifact, record_packed
from segdeploy.base.errors import ArtifactError
from segdeploy.base.files import write_file
from segdeploy.base.folders import new_folder
from segdeploy.serve.archive import check_name, check_packable, concerns
from segdeploy.serve.model_config import ModelConfig
from segdeploy.serve.triton_config import bare_config, predictor_config, read_graph

MODEL = Path(__file__).parent / "triton_model.py"
CONFIG_NAME = "config.pbtxt"
_PURPOSE = "a model of a Triton repository"
_BARE_NAMES = {"onnx": "model.onnx", "tensorrt": "model.plan"}
# Triton listens on all addresses by default, and lets everyone who reaches it set its log and its trace file, and map
# shared memory of the machine.
_RESTRICTED = "model-repository,shared-memory,trace,logging"


def pack_triton(
    artifact: Artifact, *, name: str, out: Path, config: ModelConfig, bare: bool = False, unverified: bool = False
) -> Path:
    """Make ``out/NAME``, one model of a repository; an older one is replaced when the new one is complete.

    It has ``config.pbtxt`` and one version, 1: the predictor (``model.py``, ``artifact/`` beside it) or the network alone.

    Args:
        artifact: an exported one.
        name: of the model, as it stands in the URL.
        out: the model repository.
        config: workers (instances; on a machine with GPUs so many on each), batches, and the queue.
        bare: the network alone, in Triton's own ONNX or TensorRT backend: its tensors in and out.
        unverified: pack it in spite of what its verdict lacks; its manifest, the packed one too, then says so for ever.

    Returns:
        The model's folder.

    Raises:
        InputError: a name, a batch size or a folder that cannot be used.
        ArtifactError: not an exported artifact, one whose parity was not passed, or none that can be served bare.
        MissingExtraError: onnxruntime, which reads a bare graph, is not installed.
    """
    check_name(name, fix="choose another --name")
    check_packable(artifact, unverified=unverified)
    if bare:
        _check_bare(artifact)
        text = bare_config(name, artifact.manifest, read_graph(artifact), config)
    else:
        text = predictor_config(name, artifact.manifest, config)
    lacking = concerns(artifact)
    if lacking:
        artifact = record_packed(artifact, [f"{one} (--unverified)" for one in lacking])
    with new_folder(out / name, _PURPOSE) as folder:
        write_file(folder / CONFIG_NAME, text)
        version = folder / "1"
        if bare:
            _copy(artifact, version)
            (version / artifact.manifest.files[0].path).rename(version / _BARE_NAMES[artifact.manifest.format])
            # Not in the version's folder, which a backend reads as a whole.
            (version / MANIFEST_NAME).rename(folder / MANIFEST_NAME)
        else:
            _copy(artifact, version / "artifact")
            shutil.copyfile(MODEL, version / "model.py")
    return out / name


def start_line(repository: Path) -> str:
    """The shell line that serves a repository: on loopback, no model loaded or removed, nothing set from outside."""
    words = [
        *("tritonserver", "--model-repository", str(repository), "--model-control-mode", "none"),
        *("--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1", "--metrics-address", "127.0.0.1"),
        *("--http-restricted-api", f"{_RESTRICTED}:admin-key={secrets.token_hex(16)}"),
        *("--grpc-restricted-protocol", f"{_RESTRICTED}:admin-key={secrets.token_hex(16)}"),
        "--disable-auto-complete-config",
    ]
    return shlex.join(words)


def _check_bare(artifact: Artifact) -> None:
    manifest = artifact.manifest
    if manifest.format not in _BARE_NAMES:
        raise ArtifactError(
            expected="an ONNX or a TensorRT artifact for --bare",
            got=f"{artifact.name}",
            fix="leave --bare out: Triton's Python backend runs every format",
        )
    if manifest.toolchain.tensorrt_flavour == "tensorrt_rtx":
        raise ArtifactError(
            expected="an engine of TensorRT, which Triton's backend loads",
            got=f"one of TensorRT-RTX in {artifact.name}",
            fix="export it again where the extra 'tensorrt' is installed, or leave --bare out",
        )


def _copy(artifact: Artifact, folder: Path) -> None:
    for path in (MANIFEST_NAME, *(entry.path for entry in artifact.manifest.files)):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / path, place)
