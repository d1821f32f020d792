"""Pictures from disk to masks and overlays on disk by way of a server; a file that fails never costs the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from segdeploy.base.errors import InputError, SegdeployError, ServeError
from segdeploy.base.progress import progress_bar
from segdeploy.images.decode import MAX_PIXELS, decode_image
from segdeploy.images.palette import Colour
from segdeploy.runtime.files import Drawing, Job, Outcome, Predicted, write_picture
from segdeploy.serve.client import Client

T = TypeVar("T")
R = TypeVar("R")


def predict_remote(
    client: Client, jobs: Sequence[Job], drawing: Drawing, *, at_once: int = 4, max_pixels: int = MAX_PIXELS
) -> Outcome:
    """Have a server segment every picture; what is written is what ``predict_files`` writes.

    Args:
        client: of the server.
        jobs: pictures, and where to.
        drawing: what to write.
        at_once: how many are on their way at a time.
        max_pixels: of a picture that is decoded here, for its overlay.

    Returns:
        All that was done, in the order of the jobs, and a row each file that could not be.

    Raises:
        ServeError: no server, or none of segdeploy's.
    """
    outcome = Outcome()
    classes, palette = _model(client, jobs)

    def work(job: Job) -> Predicted:
        data = _content(job)
        labels = client.ask(data).labels()
        image = decode_image(data, f"'{job.source}'", max_pixels=max_pixels)
        if labels.shape != image.shape[:2]:
            got = f"{labels.shape[1]}x{labels.shape[0]}"
            raise ServeError(
                expected=f"labels of {image.shape[1]}x{image.shape[0]}", got=got, fix="check the URL: is it segdeploy's server?"
            )
        return write_picture(job, image, labels, drawing, classes=classes, palette=palette)

    results: dict[Job, Predicted | SegdeployError] = {}
    with progress_bar(f"predict {client.url}", len(jobs)) as advance:
        for job, result in in_turn(jobs, work, at_once):
            results[job] = result
            failed = sum(isinstance(one, SegdeployError) for one in results.values())
            advance(note=f"{failed} failed" if failed else "")
    for job in jobs:
        result = results[job]
        if isinstance(result, SegdeployError):
            outcome.fail([job], _about(job, result))
        else:
            outcome.done.append(result)
    return outcome


def in_turn(items: Iterable[T], work: Callable[[T], R], at_once: int) -> Iterator[tuple[T, R | SegdeployError]]:
    """Work on items in threads, so many at once, and no more of them in memory.

    Args:
        items: are taken as they are needed.
        work: on one.
        at_once: how many.

    Yields:
        Each item with its result, or with the error that a user can meet, as they end.
    """
    left = iter(items)
    running: dict[Future[R], T] = {}
    with ThreadPoolExecutor(at_once) as pool:
        while True:
            for item in islice(left, at_once - len(running)):
                running[pool.submit(work, item)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(future)
                error = future.exception()
                yield item, error if isinstance(error, SegdeployError) else future.result()


def _content(job: Job) -> bytes:
    if job.is_video:
        raise InputError(expected="a picture", got="a video", fix="predict it without --url, or cut it into pictures")
    try:
        return job.source.read_bytes()
    except OSError as error:
        raise InputError(expected="a file that can be read", got=str(error.strerror).lower(), fix="check the path") from error


def _model(client: Client, jobs: Sequence[Job]) -> tuple[Sequence[str], Sequence[Colour]]:
    """The names and the colours of the model that the server runs, which a mask alone does not tell: of the first picture."""
    for job in jobs:
        try:
            told = client.ask(_content(job), {"as": "json", "classes": "0"}).json()
            return told["artifact"]["classes"], [(red, green, blue) for red, green, blue in told["artifact"]["palette"]]
        except InputError:  # noqa: PERF203  one round is the rule
            continue  # the file's own fault: it will have a row
        except (TypeError, KeyError, ValueError) as error:
            fix = "check the URL: is it segdeploy's server?"
            raise ServeError(
                expected=f"classes and their colours from {client.url}", got="JSON without them", fix=fix
            ) from error
    return (), ()  # nothing will be drawn


def _about(job: Job, error: SegdeployError) -> SegdeployError:
    """The error, with the file that it is about."""
    name = f"'{job.source}'"
    if name in str(error):
        return error
    return type(error)(expected=error.expected, got=f"{error.got}, for {name}", fix=error.fix)
