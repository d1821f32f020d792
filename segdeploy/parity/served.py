"""A verdict on a running server: are its labels those of the checkpoint?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from segdeploy.artifact.folder import Artifact
from segdeploy.artifact.verdict import Determinism, Divergence, Parity, Tolerance, worst
from segdeploy.base.errors import SegdeployError, ServeError
from segdeploy.base.progress import progress_bar
from segdeploy.images.arrays import Image, Labels, Logits
from segdeploy.images.label_png import encode_png
from segdeploy.parity.diagnose import wrong_resize
from segdeploy.parity.inputs import Inputs
from segdeploy.parity.judge import Judge
from segdeploy.parity.measure import Group, reference_calls, together
from segdeploy.parity.pictures import draw_worst
from segdeploy.parity.reference import describe_reference, find_original, open_original
from segdeploy.parity.sessions import Reference, Replay
from segdeploy.parity.stored import StoredReference
from segdeploy.parity.tolerance import TOLERANCES
from segdeploy.runtime.fitting import prepared
from segdeploy.runtime.open import Device, open_session
from segdeploy.runtime.predictor import network_logits, predict_batch, predict_labels

Ask = Callable[[bytes], Labels]

_AT_ONCE = 4  # distinct pictures in flight, so many times over
_ROUNDS = 3


@dataclass(frozen=True)
class _Served:
    """A picture, what the reference and the server say of it, and the reference's logits at the network's input size."""

    image: Image
    theirs: Labels
    ours: Labels
    logits: Logits


def verify_server(
    url: str,
    ask: Ask,
    artifact: Artifact,
    *,
    checkpoint: Path | None = None,
    config: str | None = None,
    inputs: Inputs | None = None,
    device: Device = "auto",
    tolerance: Tolerance | None = None,
    stored: StoredReference | None = None,
    pictures: Path | None = None,
    command: str = "",
) -> Parity:
    """Post every picture and hold the labels that come back to the reference's.

    Args:
        url: of the model, for the record.
        ask: posts an encoded picture and gives its labels [H, W] at the picture's own size.
        artifact: what the server is said to run: to tell the server's faults from the model's.
        checkpoint: as ``verify`` takes it, and so the rest.
        config: likewise.
        inputs: likewise.
        device: likewise.
        tolerance: likewise.
        stored: likewise.
        pictures: likewise.
        command: likewise.

    Returns:
        The verdict; logits and masks are skipped, since a server gives labels only.

    Raises:
        ServeError: no server, or another answer than labels.
        InputError: a picture cannot be used.
    """
    allowed = tolerance or TOLERANCES[artifact.manifest.precision]
    original, asked = find_original(artifact, checkpoint=checkpoint, config=config, inputs=inputs, stored=stored)
    judge = Judge(artifact.manifest, allowed)
    largest, served = 0.0, None
    started = time.perf_counter()
    with ExitStack() as stack:
        reference = Reference(stack.enter_context(open_original(original, device, stored)))
        advance = stack.enter_context(progress_bar(f"verify {url}", len(asked.inputs.pictures)))
        for group in together(asked.inputs.pictures, artifact.manifest):
            through = functools.cache(partial(_through_fit, group, artifact, reference))
            for index, (picture, image) in enumerate(zip(group.pictures, group.images, strict=True)):
                told = reference.segment(picture.encoded())
                ours = _checked(ask(picture.encoded()), told.labels, picture.name)
                if group.fitted.exact:
                    theirs = told.labels
                    share = judge.add_labels(picture, theirs, ours, told.logits)
                else:
                    theirs, logits = through()[0][index], through()[1][index]
                    share = judge.add_fitted(picture, told.labels, ours, theirs, logits=partial(np.asarray, logits))
                judge.keep_worst(picture.name, image, theirs, ours, share)
                if share > largest:
                    largest, served = share, _Served(image, theirs, ours, through()[1][index])
                advance()
    parity = Parity(
        reference=describe_reference(original, stored),
        inputs=asked.inputs.described,
        device=url,
        when=datetime.now().astimezone().isoformat(timespec="seconds"),
        noise=asked.inputs.noise,
        tolerance=allowed,
        shapes=(),
        verdict="undecided",  # until all checks are known
        labels=judge.labels(),
        task=judge.task(),
        determinism=_steadiness(ask, asked.inputs, allowed),
        fit=judge.fit(),
        command=command,
        seconds=time.perf_counter() - started,
        forward_seconds=reference.seconds,
    )
    parity = msgspec.structs.replace(parity, verdict=worst(check.verdict for check in parity.checks))
    steady = parity.determinism
    if steady is not None and steady.verdict == "failed":  # nothing that is asked of it afterwards means anything
        found = Divergence(stage="server", module="", detail=f"its answers are not steady: {steady.reason}")
        parity = msgspec.structs.replace(parity, divergence=found)
    elif parity.verdict == "failed" and served is not None:
        parity = msgspec.structs.replace(parity, divergence=_diagnose(served, artifact, ask, device))
    if parity.verdict == "failed" and pictures is not None and judge.worst is not None:
        draw_worst(judge.worst, artifact.manifest, pictures)
    return parity


def _through_fit(group: Group, artifact: Artifact, reference: Reference) -> tuple[list[Labels], Logits]:
    """The reference's labels and logits [N, K, H', W'] of a group's pictures by way of what the artifact is given."""
    calls = reference_calls(reference, group, artifact.manifest)
    labels = predict_batch(Replay(artifact, reference, calls), group.images)
    batch = prepared(group.images, group.fitted)
    return labels, network_logits(Replay(artifact, reference, calls), batch, group.fitted)


def _checked(ours: Labels, theirs: Labels, name: str) -> Labels:
    if ours.shape != theirs.shape:
        raise ServeError(
            expected=f"labels of {theirs.shape[1]}x{theirs.shape[0]} for '{name}'",
            got=f"{'x'.join(map(str, ours.shape[::-1]))}",
            fix="the server must answer at the picture's own size",
        )
    return ours


def _steadiness(ask: Ask, inputs: Inputs, tolerance: Tolerance) -> Determinism:
    """Ask for a picture twice, and for several distinct ones at the same time: each must get its own labels."""
    files = [picture.encoded() for picture in inputs.pictures[:_AT_ONCE]]
    if len(files) == 1:  # a server may mix up two of one client only
        files.append(encode_png(np.ascontiguousarray(inputs.pictures[0].read()[:, ::-1])))
    once, again = ask(files[0]), ask(files[0])
    alone = [once, *(ask(data) for data in files[1:])]
    differ = int((once != again).sum()) if once.shape == again.shape else once.size
    with ThreadPoolExecutor(len(files)) as pool:
        together = [answer for _ in range(_ROUNDS) for answer in pool.map(ask, files)]
    # A server that batches may round in another order: what may differ from the checkpoint may differ here too.
    limit = 1 - tolerance.mask_agreement
    wrong = [index for index, answer in enumerate(together) if _share(alone[index % len(files)], answer) > limit]
    told = f"the same picture twice: {differ} labels differ; {len(files)} distinct pictures at the same time: "
    told += f"{len(wrong)} of {len(together)} answers are not those of asking alone" if wrong else "each got its own answer"
    mixed = [index for index in wrong if any(np.array_equal(together[index], one) for one in alone)]
    told += f"; {len(mixed)} of them are another picture's: the server mixes up its answers" if mixed else ""
    return Determinism(
        pixels=once.size,
        again=differ,
        again_logits=None,
        batched=None,
        batched_logits=None,
        concurrent=len(wrong),
        verdict="failed" if differ or wrong else "passed",
        reason=told,
    )


def _diagnose(served: _Served, artifact: Artifact, ask: Ask, device: Device) -> Divergence:
    """The server's own part, or the model that it runs."""
    known = ""
    try:
        with open_session(artifact, device) as session:
            here = predict_labels(session, served.image)
    except SegdeployError:
        pass  # the artifact runs where the server is, not here
    else:
        if _share(here, served.theirs) > 0.5 * _share(served.ours, served.theirs):
            detail = f"{artifact.name} gives wrong labels here too: the model, not the server; run segdeploy verify on it"
            return Divergence(stage="graph", module="", detail=detail)
        known = f", while {artifact.name} here agrees with the checkpoint"
    swapped = _ask_swapped(ask, served.image)
    if swapped is not None and _share(served.theirs, swapped) < 0.2 * _share(served.theirs, served.ours):
        part, sure = "with red and blue exchanged in the picture they agree: it swaps the channels", True
    else:
        resized = wrong_resize(served.logits, served.ours, artifact.manifest)
        part = resized or "it decodes or resizes in another way, or runs another model"
        sure = bool(resized)
    return Divergence(stage="server", module="", detail=f"its labels differ{known}: {part}", sure=sure)


def _ask_swapped(ask: Ask, image: Image) -> Labels | None:
    try:
        return ask(encode_png(np.ascontiguousarray(image[..., ::-1])))
    except SegdeployError:
        return None


def _share(one: Labels, other: Labels) -> float:
    return 1.0 if one.shape != other.shape else float((one != other).mean())
