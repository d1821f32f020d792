"""Many pictures with Ray Data: ``predict`` and ``eval`` on a cluster, with a journal, so that what is done is not done again.

Files are read and written where a worker runs: on a cluster of several machines they lie on a file system that all of them see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from segdeploy.artifact.folder import Artifact
from segdeploy.base.errors import BackendError, InputError, SegdeployError
from segdeploy.base.files import make_parent, writable
from segdeploy.base.machine import usable_cpus
from segdeploy.base.progress import progress_bar
from segdeploy.images.dataset import Sample
from segdeploy.images.decode import MAX_PIXELS
from segdeploy.runtime.augment import Augmentation
from segdeploy.runtime.files import Drawing, Job, Outcome, Predicted, predict_files
from segdeploy.runtime.open import Device, open_session
from segdeploy.runtime.tally import PLAIN, Problem, Tally, count_sample, empty_matrix, load_sample
from segdeploy.serve.ray_server import ray_cluster

JOURNAL_NAME = ".segdeploy-predicted.jsonl"
_A_BLOCK = 8  # files that a worker is given at once: so many at most are done again after a kill


@dataclass(frozen=True)
class Spread:
    """How work is spread.

    Attributes:
        processes: that have the model, in all.
        device: as ``open_session`` takes it.
        threads: CPU threads in all; None for as many as this process may use.
        address: of a running cluster; None starts one here.
        max_pixels: of a picture.
    """

    processes: int = 1
    device: Device = "auto"
    threads: int | None = None
    address: str | None = None
    max_pixels: int = MAX_PIXELS


class _Told(msgspec.Struct, frozen=True):
    """What a worker says of one file."""

    key: str
    predicted: Predicted | None = None
    failed: Predicted | None = None
    cells: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    device: str = ""
    problems: tuple[tuple[str, str, str], ...] = ()


def predict_in_ray(artifact: Artifact, jobs: Sequence[Job], drawing: Drawing, out: Path, spread: Spread) -> Outcome:
    """``predict_files`` over Ray Data: the same files, and what could not be done as problems.

    What the journal in ``out`` has, of the same picture by the same artifact with the same options, is not done again.

    Raises:
        BackendError: the model cannot run there, or its workers end.
        InputError: ``out`` cannot be written.
    """
    about = [artifact.manifest.hashes, asdict(drawing), spread.max_pixels]
    keys = [_key(about, job.source, job.place) for job in jobs]
    journal = out / JOURNAL_NAME
    found = {key: told for key, told in _read(journal).items() if _still_there(told)}
    waiting = [(key, job) for key, job in zip(keys, jobs, strict=True) if key not in found]
    items = [{"key": key, "source": str(job.source), "place": str(job.place)} for key, job in waiting]
    arguments = (artifact, drawing, spread.device, _share(spread), spread.max_pixels)
    with _appending(journal) as keep:
        for told in _spread_out(f"predict {artifact.name}", items, _Segmenter, arguments, spread, done=len(jobs) - len(items)):
            found[told.key] = told
            if not told.problems:
                keep(told)
    outcome = Outcome()
    for key in keys:
        told = found[key]
        outcome.done += [told.predicted] if told.predicted is not None else []
        outcome.failed += [told.failed] if told.failed is not None else []
        outcome.problems += _problems(told)
    return outcome


def tally_in_ray(
    artifact: Artifact,
    samples: Sequence[Sample],
    spread: Spread,
    *,
    augmentation: Augmentation = PLAIN,
    journal: Path | None = None,
) -> Tally:
    """``tally`` over Ray Data. Counts are integers: their sum is the same whoever counts.

    Args:
        artifact: the model.
        samples: images with labels.
        spread: over what.
        augmentation: test-time augmentation.
        journal: keeps the counts of every image; what it has, of the same files and options, is not done again.

    Raises:
        BackendError: the model cannot run there, or its workers end.
        InputError: the journal cannot be written.
    """
    about = [
        artifact.manifest.hashes,
        asdict(augmentation),
        msgspec.to_builtins(artifact.manifest.inference),
        spread.max_pixels,
    ]
    keys = [_key(about, sample.image, sample.label) for sample in samples]
    found = _read(journal) if journal is not None else {}
    waiting = [{"key": key, "index": index} for index, key in enumerate(keys) if key not in found]
    arguments = ((artifact, spread.device, _share(spread)), tuple(samples), augmentation, spread.max_pixels)
    with _appending(journal) as keep:
        label = f"eval {artifact.name}"
        for told in _spread_out(label, waiting, _Counter, arguments, spread, done=len(samples) - len(waiting)):
            found[told.key] = told
            if not told.problems:
                keep(told)
    matrix, problems = empty_matrix(artifact), []
    devices = dict.fromkeys(found[key].device for key in keys if found[key].device)
    for key, sample in zip(keys, samples, strict=True):
        told = found[key]
        problems += [Problem(sample, error) for error in _problems(told)]
        if not told.problems:
            counts: NDArray[np.int64] = np.zeros_like(matrix.counts)
            counts.reshape(-1)[list(told.cells)] = told.counts
            matrix.merge(counts, 1)
    return Tally(matrix, tuple(problems), f"{', '.join(devices)}, {spread.processes} processes of Ray")


class _Segmenter:
    """A worker of ``predict``."""

    def __init__(self, artifact: Artifact, drawing: Drawing, device: Device, threads: int, max_pixels: int) -> None:
        self._session = open_session(artifact, device, threads)
        self._drawing, self._max_pixels = drawing, max_pixels

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[bytes]]:
        told = [self._one(*one) for one in zip(batch["key"], batch["source"], batch["place"], strict=True)]
        return {"told": [msgspec.json.encode(one) for one in told]}

    def _one(self, key: str, source: str, place: str) -> _Told:
        outcome = predict_files(self._session, [Job(Path(source), Path(place))], self._drawing, max_pixels=self._max_pixels)
        done, failed = next(iter(outcome.done), None), next(iter(outcome.failed), None)
        return _Told(str(key), predicted=done, failed=failed, problems=tuple(map(_parts, outcome.problems)))


class _Counter:
    """A worker of ``eval``."""

    def __init__(
        self, model: tuple[Artifact, Device, int], samples: Sequence[Sample], augmentation: Augmentation, max_pixels: int
    ) -> None:
        self._session = open_session(*model)
        self._samples, self._augmentation, self._max_pixels = samples, augmentation, max_pixels

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[bytes]]:
        told = [self._one(str(key), int(index)) for key, index in zip(batch["key"], batch["index"], strict=True)]
        return {"told": [msgspec.json.encode(one) for one in told]}

    def _one(self, key: str, index: int) -> _Told:
        artifact = self._session.artifact
        matrix = empty_matrix(artifact)
        try:
            loaded = load_sample(self._samples[index], artifact.manifest, matrix, self._max_pixels)
            count_sample(self._session, loaded, matrix, self._augmentation)
        except InputError as error:
            return _Told(key, problems=(_parts(error),))
        flat = matrix.counts.reshape(-1)
        cells = np.flatnonzero(flat)
        return _Told(key, cells=tuple(cells.tolist()), counts=tuple(flat[cells].tolist()), device=self._session.device)


def _spread_out(
    label: str, items: Sequence[Mapping[str, Any]], worker: type, arguments: tuple[Any, ...], spread: Spread, *, done: int
) -> Iterator[_Told]:
    """What the workers say, as it comes."""
    with progress_bar(label, done + len(items), done=done) as advance:
        if not items:
            return
        with ray_cluster(spread.address):
            import ray
            import ray.data

            ray.data.DataContext.get_current().enable_progress_bars = False
            rows = ray.data.from_items(list(items), override_num_blocks=-(-len(items) // _A_BLOCK)).map_batches(
                worker,
                fn_constructor_args=arguments,
                batch_size=None,
                concurrency=min(spread.processes, len(items)),
                num_cpus=1,
                num_gpus=1 if spread.device == "cuda" else 0,
            )
            try:
                for row in rows.iter_rows():
                    yield msgspec.json.decode(row["told"], type=_Told)
                    advance()
            except ray.exceptions.RayError as error:
                raise _ended(error) from error


def _ended(error: Exception) -> SegdeployError:
    cause = getattr(error, "cause", None)
    if isinstance(cause, SegdeployError):
        return cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    got = next((line for line in lines[::-1] if "Error" in line), lines[-1] if lines else type(error).__name__)
    return BackendError(
        expected="workers of Ray that stay alive", got=got[:400], fix="use fewer --processes, or see Ray's logs"
    )


def _share(spread: Spread) -> int:
    return max(1, (spread.threads or usable_cpus()) // spread.processes)


def _key(about: Any, source: Path, other: Path) -> str:
    """Of one file by one model: another content, place or option is another key."""
    stats = []
    for path in (source, other):
        try:
            stat = path.stat()
        except OSError:  # noqa: PERF203  a worker will say what is wrong with it
            stats.append((str(path.resolve()), 0, 0))
        else:
            stats.append((str(path.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(msgspec.json.encode([about, stats])).hexdigest()


def _read(journal: Path) -> dict[str, _Told]:
    """What earlier runs have done; a line that a kill cut off counts for nothing."""
    found = {}
    try:
        lines = journal.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        with suppress(msgspec.DecodeError):
            told = msgspec.json.decode(line, type=_Told)
            found[told.key] = told
    return found


@contextmanager
def _appending(journal: Path | None) -> Iterator[Callable[[_Told], None]]:
    if journal is None:
        yield lambda _: None
        return
    with writable(journal):
        make_parent(journal)
        stream = journal.open("ab")
    with stream:
        stream.write(b"\n")  # behind a line that was cut off

        def keep(told: _Told) -> None:
            stream.write(msgspec.json.encode(told) + b"\n")
            stream.flush()

        yield keep


def _still_there(told: _Told) -> bool:
    return told.predicted is not None and all(Path(path).exists() for path in told.predicted.written)


def _parts(error: SegdeployError) -> tuple[str, str, str]:
    return error.expected, error.got, error.fix


def _problems(told: _Told) -> list[InputError]:
    return [InputError(expected=expected, got=got, fix=fix) for expected, got, fix in told.problems]
