"""``segdeploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import (
    checkpoint_option,
    config_option,
    device_option,
    json_option,
    max_pixels_option,
    print_table,
    typed_command,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segdeploy.artifact.folder import Artifact, Unopened
    from segdeploy.artifact.manifest import Manifest
    from segdeploy.artifact.verdict import Parity
    from segdeploy.base.errors import SegdeployError
    from segdeploy.parity.inputs import Inputs

_SHOWN = {"failed": "FAILED"}
_STYLES = {"passed": "green", "FAILED": "bold red", "skipped": "yellow", "undecided": "yellow"}


@click.command("verify")
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="A labelled data set; the validation set by default.")
@click.option("--split", default="val", show_default=True, help="Of it.")
@click.option("--images", type=click.Path(path_type=Path), help="A folder of pictures without labels, in its place.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(min=0), help="So many of them, evenly spaced; 0 for all."
)
@click.option("--shape", "sizes", metavar="HxW", multiple=True, help="Sizes to verify at too; may be repeated.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="With --shape: images a batch.")
@click.option("--url", help="Hold a running server to it: http://HOST:8080/predictions/NAME.")
@click.option("--logits-tolerance", type=float, help="Largest difference of a logit, relative to the largest logit.")
@click.option("--agreement", type=float, help="Least share of labels that agree, in [0, 1].")
@click.option("--epsilon", type=float, help="Points of mIoU that count as no difference.")
@click.option(
    "--save-reference",
    type=click.Path(path_type=Path),
    help="Store the reference's inputs and outputs here; of several artifacts, each in its own folder.",
)
@click.option("--reference", type=click.Path(path_type=Path), help="Such a folder, where there is no mmseg.")
@click.option(
    "--pictures", type=click.Path(path_type=Path), default="parity", show_default=True, help="Where to draw the worst image."
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here too.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write Markdown here too.")
@checkpoint_option
@config_option
@device_option
@max_pixels_option
@json_option
def command(
    artifacts: tuple[Path, ...],
    data: Path | None,
    split: str,
    images: Path | None,
    limit: int,
    sizes: tuple[str, ...],
    batch: int,
    url: str | None,
    logits_tolerance: float | None,
    agreement: float | None,
    epsilon: float | None,
    save_reference: Path | None,
    reference: Path | None,
    pictures: Path,
    junit: Path | None,
    markdown: Path | None,
    checkpoint: Path | None,
    config: str | None,
    device: str,
    max_pixels: int | None,
    json_path: Path | None,
) -> None:
    """Decide whether ARTIFACTS (all under exports/ by default) may replace the checkpoint that they came from.

    With --url: whether a running server gives the labels of that checkpoint.

    Exit 0 when all passed, 3 when one failed, 4 when one could not be decided here.
    """
    from segdeploy.base.errors import InputError
    from segdeploy.base.files import write_file
    from segdeploy.cli.defaults import named_artifacts, short_places
    from segdeploy.export.shapes import parse_size
    from segdeploy.images.decode import MAX_PIXELS
    from segdeploy.parity import reports
    from segdeploy.parity.served import verify_server
    from segdeploy.parity.stored import stored_reference
    from segdeploy.parity.tolerance import tolerance_for
    from segdeploy.parity.verify import store_reference, verify
    from segdeploy.serve.client import Client

    if reference is not None and (data or images or sizes or save_reference):
        raise InputError(
            expected="--reference alone: it holds its own pictures and shapes",
            got="--data, --images, --shape or --save-reference beside it",
            fix="leave them out",
        )
    shapes = [(batch, *parse_size(size, "--shape")) for size in sizes] or None
    chosen = named_artifacts(artifacts)
    if url is not None and len(chosen) != 1:
        raise InputError(expected="one ARTIFACT with --url: what the server runs", got=f"{len(chosen)}", fix="name it")
    places = short_places([one.folder for one in chosen])

    def judged(artifact: Artifact) -> Parity:
        manifest = artifact.manifest
        where = {"checkpoint": checkpoint, "config": config, "device": device}
        inputs = None if reference else choose_inputs(manifest, data, split, images, limit, max_pixels)
        stored = stored_reference(reference, places[artifact.folder], max_pixels or MAX_PIXELS) if reference else None
        if save_reference is not None:
            # One for each: another artifact is asked at other shapes.
            own = save_reference / places[artifact.folder] if len(chosen) > 1 else save_reference
            stored = store_reference(artifact, own, inputs=inputs, shapes=shapes, **where)  # type: ignore[arg-type]
        common = {
            **where,
            "inputs": inputs,
            "tolerance": tolerance_for(
                manifest.precision, logits_max_abs=logits_tolerance, mask_agreement=agreement, miou_points=epsilon
            ),
            "stored": stored,
            "pictures": pictures / places[artifact.folder] / ("server" if url else ""),
            "command": typed_command(),
        }
        if url is not None:
            with Client(url) as client:
                return verify_server(url, client.labels, artifact, **common)  # type: ignore[arg-type]
        return verify(artifact, shapes=shapes, **common)  # type: ignore[arg-type]

    verdicts, errors = judge_each(chosen, judged, url)
    write_json(json_path, dict(verdicts))
    for path, text in ((junit, reports.junit(verdicts)), (markdown, reports.markdown(verdicts))):
        if path is not None:
            write_file(path, text)
    if len(errors) == len(verdicts):
        raise errors[0]
    show_verdicts(verdicts)
    gate(verdicts)


def judge_each(
    chosen: Sequence[Artifact | Unopened], judge: Callable[[Artifact], Parity], url: str | None = None
) -> tuple[list[tuple[str, Parity]], list[SegdeployError]]:
    """A verdict on each, and the errors of those that cannot be judged: each has its own row, and never costs the others.

    Args:
        chosen: the artifacts.
        judge: takes the verdict.
        url: what a server's row is called. An artifact's is called by its folder: two of one name may be asked about.
    """
    from segdeploy.artifact.folder import Unopened
    from segdeploy.base.errors import SegdeployError
    from segdeploy.parity.verify import not_judged

    verdicts: list[tuple[str, Parity]] = []
    errors: list[SegdeployError] = []
    for one in chosen:
        try:
            if isinstance(one, Unopened):
                raise one.error
            parity = judge(one)
        except SegdeployError as error:
            errors.append(error)
            parity = not_judged(error)
        verdicts.append((url or str(one.folder), parity))
    return verdicts, errors


def choose_inputs(
    manifest: Manifest, data: Path | None, split: str, images: Path | None, limit: int, max_pixels: int | None = None
) -> Inputs:
    """The pictures of --data or --images, or the default ones; at most so many, 0 for all; of at most so many pixels."""
    from segdeploy.base.errors import InputError
    from segdeploy.images.decode import MAX_PIXELS
    from segdeploy.parity.inputs import default_pictures, pictures_of_dataset, pictures_of_folder

    if data is not None and images is not None:
        raise InputError(expected="--data or --images", got="both", fix="leave one of them out")
    largest = max_pixels or MAX_PIXELS
    if images is not None:
        return pictures_of_folder(images, limit or None, max_pixels=largest)
    if data is not None:
        return pictures_of_dataset(data, split, manifest, limit or None, max_pixels=largest)
    return default_pictures(manifest, limit or None, max_pixels=largest)


def show_verdicts(verdicts: Sequence[tuple[str, Parity]]) -> None:
    """A table of every check, what it rests on, and where a difference begins."""
    from segdeploy.artifact.verdict import describe_shape
    from segdeploy.parity.reports import told_divergence

    for name, parity in verdicts:
        rows = [
            [
                describe_shape(one.shape),
                _SHOWN.get(one.verdict, one.verdict),
                str(one.images),
                f"{one.logits.max_abs:.1e}",
                f"{one.logits.p99_abs:.1e}",
                f"{one.logits.cosine:.7f}",
                "-" if one.logits.psnr_db is None else f"{one.logits.psnr_db:.0f}",
                f"{one.masks.differ:,}",
                f"{one.masks.firm:,}",
                f"{100 * one.masks.agreement:.4f} %",
            ]
            for one in parity.shapes
        ]
        if rows:
            print_table(
                f"{name}: logits and masks",
                ["N x HxW", "verdict", "images", "max |d|", "p99 |d|", "cosine", "PSNR dB", "flips", "firm", "agreement"],
                rows,
                right=2,
                styles=_STYLES,
            )
            for one in parity.shapes:
                if one.reason:
                    click.echo(f"{describe_shape(one.shape)}: {one.reason}")
        _show_checks(name, parity)
        if parity.broken:
            click.echo(f"{name}: not verified: {parity.reason}")
            continue
        click.echo(f"{name}: {parity.verdict} on {parity.inputs}, {parity.device}; against {parity.reference}")
        if parity.unrecorded:
            click.echo(f"{name}: not recorded in its manifest: {parity.unrecorded}")
        if parity.seconds:
            click.echo(f"{parity.seconds:.1f} s, of which {parity.forward_seconds:.1f} s in the models")
        for line in told_divergence(parity):
            click.echo(line)


def _show_checks(name: str, parity: Parity) -> None:
    """The checks that the table of shapes does not show."""
    from segdeploy.artifact.verdict import shape_check
    from segdeploy.parity.reports import figures

    shown = {shape_check(one.shape) for one in parity.shapes}
    rows = [
        [check.name, _SHOWN.get(check.verdict, check.verdict), figures(parity, check)]
        for check in parity.checks
        if check.name not in shown
    ]
    print_table(f"{name}: labels, task, determinism", ["check", "verdict", "found"], rows, right=3, styles=_STYLES)


def gate(verdicts: Sequence[tuple[str, Parity]], *, skipped: bool = True) -> None:
    """End with exit 3 where a candidate failed, and with 4 where one could not be decided.

    Args:
        verdicts: what each candidate is called, and its verdict.
        skipped: whether one that cannot run here counts as not decided.
    """
    from segdeploy.base.errors import GateFailed, GateUndecided

    failed = [name for name, parity in verdicts if parity.verdict == "failed"]
    if failed:
        raise GateFailed(
            expected="outputs within the tolerance", got=f"{', '.join(failed)} failed", fix="do not ship; see the table"
        )
    decided = ("passed",) if skipped else ("passed", "skipped")
    open_ = [f"{name} {parity.verdict}" for name, parity in verdicts if parity.verdict not in decided]
    if open_:
        raise GateUndecided(
            expected="a verdict on every candidate",
            got=", ".join(open_),
            fix="see the reasons above: verify where it runs, or with more images (--limit 0)",
        )
