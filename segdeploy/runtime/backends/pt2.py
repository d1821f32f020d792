"""PT2 packages: code that AOTInductor compiled ahead of time, run by PyTorch. mmseg and a compiler are not needed."""

from __future__ import annotations

import platform
from types import TracebackType
from typing import Any

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.manifest import Manifest, Target
from segdeploy.artifact.rebuild import export_command
from segdeploy.base.errors import ArtifactError, BackendError
from segdeploy.base.versions import version_of
from segdeploy.runtime.backend import Backend
from segdeploy.runtime.backends.torch_device import compute_capability, import_torch
from segdeploy.runtime.backends.torch_session import TorchSession

# AOTInductor's name -> torch.cpu's. Its own question to the processor (torch._inductor.cpu_vec_isa) needs a C++ compiler.
_INSTRUCTIONS = {"AVX2": "avx2", "AVX512": "avx512_f", "AVX512_VNNI": "avx512_vnni", "AMX_TILE": "amx_tile"}


class Pt2Session(TorchSession):
    """PyTorch running a compiled package."""

    def __init__(self, artifact: Artifact, device: str, threads: int) -> None:
        """Load the package.

        Raises:
            BackendError: PyTorch is missing, or the package is for another device than was asked for or is here.
            ArtifactError: it was made by another torch or for another processor, or PyTorch refuses it.
        """
        torch = import_torch("pt2")
        target = artifact.manifest.target or Target(device="cpu")
        if device not in ("auto", target.device):
            raise BackendError(
                expected=f"a pt2 package for {device}", got=f"one for {target.device}", fix=_rebuild(artifact.manifest, device)
            )
        if target.device == "cuda" and not torch.cuda.is_available():
            raise BackendError(
                expected="a CUDA device to run this pt2 package",
                got="none that PyTorch can see",
                fix=_rebuild(artifact.manifest, "cpu"),
            )
        super().__init__(artifact, target.device, threads)
        check_target(torch, artifact.manifest)
        from torch._C import _aoti

        try:
            # What torch._inductor.aoti_load_package wraps: that looks for a C++ compiler, which only the export needs.
            self._package: Any = _aoti.AOTIModelPackageLoader(str(artifact.model_path), "model", False, 1, -1)
        except RuntimeError as error:
            raise ArtifactError(
                expected=f"a package that torch {torch.__version__} can load at '{artifact.model_path}'",
                got=str(error).splitlines()[0],
                fix=_rebuild(artifact.manifest, target.device),
            ) from error

    def _forward(self, batch: Any) -> tuple[Any, Any]:
        with self._torch.inference_mode():
            mask, logits = self._package.boxed_run([batch])
        return mask, logits

    def __enter__(self) -> Pt2Session:
        """See ``Session``."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the package."""
        self._package = None


def check_target(torch: Any, manifest: Manifest) -> None:
    """Refuse a package that was compiled for something else, before it would crash.

    Raises:
        ArtifactError: with the command that makes one for this machine.
    """
    target = manifest.target or Target(device="cpu")
    installed, made_by = version_of("torch"), manifest.toolchain.torch
    if installed != made_by:
        raise ArtifactError(
            expected=f"a pt2 package made by torch {installed}, which is installed here",
            got=f"one made by torch {made_by}",
            fix=_rebuild(manifest, target.device),
        )
    known = processor(torch)
    if target.cpu is None or not set(target.cpu.split()) <= set(known):
        raise ArtifactError(
            expected=f"a pt2 package for this processor ({' '.join(known)})",
            got=f"one for {target.cpu or 'an unknown one'}",
            fix=_rebuild(manifest, target.device),
        )
    if target.device == "cuda" and target.compute_capability != compute_capability(torch):
        raise ArtifactError(
            expected=f"a pt2 package for this GPU ({compute_capability(torch)})",
            got=f"one for {target.compute_capability or 'an unknown one'}",
            fix=_rebuild(manifest, "cuda"),
        )


def processor(torch: Any) -> tuple[str, ...]:
    """This machine's architecture and vector instructions, by the names that AOTInductor uses in ``Target.cpu``."""
    machine = platform.machine()
    if machine != "x86_64":
        return machine, "ASIMD"
    has = torch.cpu.get_capabilities()
    return machine, *(name for name, theirs in _INSTRUCTIONS.items() if has.get(theirs))


def _rebuild(manifest: Manifest, device: str) -> str:
    return f"build it here: {export_command(manifest, 'pt2', [device] if device == 'cuda' else [])}"


BACKEND = Backend(name="pt2", title="PT2", extra="train", modules=("torch",), packages=("torch",), open=Pt2Session)
