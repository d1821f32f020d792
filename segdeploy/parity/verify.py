"""A verdict on an artifact: may it replace the checkpoint that it came from?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import msgspec

from segdeploy.artifact.folder import Artifact, record_parity
from segdeploy.artifact.manifest import Manifest
from segdeploy.artifact.verdict import Parity, TaskParity, Tolerance, worst
from segdeploy.base.errors import BackendError, SegdeployError
from segdeploy.base.folders import new_folder
from segdeploy.base.machine import cpu_model, local_gpu
from segdeploy.parity.determinism import determinism
from segdeploy.parity.diagnose import diagnose
from segdeploy.parity.inputs import Inputs
from segdeploy.parity.judge import Judge
from segdeploy.parity.measure import Question, run_all
from segdeploy.parity.pictures import draw_worst
from segdeploy.parity.reference import describe_reference, find_original, open_original
from segdeploy.parity.sessions import Recorder, Reference
from segdeploy.parity.shapes import left_out
from segdeploy.parity.stored import SavingSession, StoredReference
from segdeploy.parity.tolerance import TOLERANCES
from segdeploy.runtime import open_session
from segdeploy.runtime.open import Device


def verify(
    artifact: Artifact,
    *,
    checkpoint: Path | None = None,
    config: str | None = None,
    inputs: Inputs | None = None,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    device: Device = "auto",
    tolerance: Tolerance | None = None,
    stored: StoredReference | None = None,
    pictures: Path | None = None,
    record: bool = True,
    command: str = "",
) -> Parity:
    """Run the reference and the artifact on the same images, and judge.

    Args:
        artifact: what may replace the checkpoint.
        checkpoint: the reference; None for the one it was made from.
        config: the checkpoint's config, where it carries none.
        inputs: the pictures; None for ``default_pictures``.
        shapes: (N, H, W) to try with every picture beside the pictures' own sizes; None for one batch at each default.
        device: where both run.
        tolerance: what is allowed; None for that of the artifact's precision.
        stored: outputs of the reference from another machine, in place of running it; its pictures and shapes count.
        pictures: a folder for pictures of the worst image, drawn where the artifact failed.
        record: add the verdict to the history in the artifact's manifest.
        command: what was typed, for the record.

    Returns:
        The verdict. ``skipped``, with the reason, where the artifact cannot run on this machine. It says itself where it
        could not be recorded: the artifact was replaced meanwhile, or its folder cannot be written.

    Raises:
        CheckpointError: the reference is gone or damaged.
        ArtifactError: the reference is another checkpoint's.
        InputError: a picture cannot be used.
    """
    original, asked = find_original(artifact, checkpoint=checkpoint, config=config, inputs=inputs, shapes=shapes, stored=stored)
    parity = Parity(
        reference=describe_reference(original, stored),
        inputs=asked.inputs.described,
        device="none",
        tolerance=tolerance or TOLERANCES[artifact.manifest.precision],
        shapes=(),
        verdict="skipped",
        command=command,
        when=datetime.now().astimezone().isoformat(timespec="seconds"),
        files=artifact.manifest.hashes,
        noise=asked.inputs.noise,
    )
    with ExitStack() as stack:
        try:
            candidate = Recorder(stack.enter_context(open_session(artifact, device)))
        except BackendError as error:
            parity = msgspec.structs.replace(parity, reason=str(error))
        else:
            session = stack.enter_context(open_original(original, device, stored))
            judge = Judge(artifact.manifest, parity.tolerance)
            parity = _judged(parity, Reference(session), candidate, asked, judge)
            if parity.verdict == "failed":
                found = diagnose(parity, judge.worst, candidate, session, judge.way)
                parity = msgspec.structs.replace(parity, divergence=found)
                if pictures is not None and judge.worst is not None:
                    draw_worst(judge.worst, artifact.manifest, pictures)
    if record:
        try:
            record_parity(artifact, parity)
        except SegdeployError as error:  # the verdict stands all the same, on the files that were opened
            parity = msgspec.structs.replace(parity, unrecorded=str(error))
    return parity


def not_judged(error: SegdeployError) -> Parity:
    """The row of an artifact that cannot be opened, or whose reference cannot be run: the error, and no verdict."""
    nothing = Tolerance(logits_max_abs=0, mask_agreement=1, miou_points=0)
    return Parity(
        reference="none",
        inputs="nothing",
        device="none",
        tolerance=nothing,
        shapes=(),
        verdict="skipped",
        reason=str(error),
        broken=True,
    )


def _provider(manifest: Manifest, device: str) -> str:
    kind = device.partition(" ")[0]
    if manifest.format == "onnx":
        return f"{'CUDA' if kind == 'cuda' else 'CPU'}ExecutionProvider"
    if manifest.format == "tensorrt":
        return f"{manifest.toolchain.tensorrt_flavour} {manifest.toolchain.tensorrt}"
    return f"torch {kind}"


def _processor(device: str) -> str:
    """The CPU's name, or the GPU's as the session tells it; onnxruntime tells none."""
    kind, _, told = device.partition(" ")
    if kind == "cpu":
        return cpu_model()
    name = told.strip("()")
    if name != "onnxruntime":
        return name
    gpu = local_gpu()
    return gpu.name if gpu else ""


def store_reference(
    artifact: Artifact,
    folder: Path,
    *,
    checkpoint: Path | None = None,
    config: str | None = None,
    inputs: Inputs | None = None,
    shapes: Sequence[tuple[int, int, int]] | None = None,
    device: Device = "auto",
) -> StoredReference:
    """Run the reference as ``verify`` would, and write its inputs and outputs into a folder, whole or not at all.

    Args:
        artifact: what will be verified with it; others of the same checkpoint and shapes can be too.
        folder: a new one, or an older reference, which is replaced.
        checkpoint: as ``verify`` takes it, and so the rest.
        config: likewise.
        inputs: likewise.
        shapes: likewise.
        device: likewise.
    """
    original, asked = find_original(artifact, checkpoint=checkpoint, config=config, inputs=inputs, shapes=shapes)
    judge = Judge(artifact.manifest, TOLERANCES[artifact.manifest.precision])
    with (
        new_folder(folder, "the reference of a parity verdict") as temporary,
        open_original(original, device) as session,
    ):
        saving = SavingSession(session, temporary)
        run_all(
            Reference(saving), None, asked, judge, manifest=artifact.manifest, label=f"store the reference of {artifact.name}"
        )
        saving.finish(asked)
    return StoredReference(folder)


def _judged(parity: Parity, original: Reference, candidate: Recorder, asked: Question, judge: Judge) -> Parity:
    started = time.perf_counter()
    run_all(original, candidate, asked, judge, manifest=candidate.artifact.manifest, label=f"verify {candidate.artifact.name}")
    found = msgspec.structs.replace(
        parity,
        device=candidate.device,
        provider=_provider(candidate.artifact.manifest, candidate.device),
        processor=_processor(candidate.device),
        shapes=judge.shapes(),
        left_out=() if asked.every else left_out(candidate.artifact.manifest),
        verdict="undecided",  # until all checks are known
        labels=judge.labels(),
        task=_of_noise(judge.task(), candidate.artifact.manifest) if asked.inputs.noise else judge.task(),
        fit=judge.fit(),
        pictures=tuple(judge.pictures),
        determinism=determinism(candidate, asked.inputs, parity.tolerance),
        seconds=time.perf_counter() - started,
        forward_seconds=original.seconds + candidate.seconds,
    )
    return msgspec.structs.replace(found, verdict=worst(check.verdict for check in found.checks))


def _of_noise(task: TaskParity, manifest: Manifest) -> TaskParity:
    """Noise shows a graph that computes something else; what a lower precision costs on real pictures it cannot show."""
    if manifest.precision == "fp32":
        return task
    reason = f"seeded noise can fail {manifest.precision} but not pass it: verify on real pictures with --data or --images"
    return msgspec.structs.replace(task, verdict="undecided", reason=reason)
