"""``segdeploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from segdeploy.cli.options import checkpoint_option, config_option, device_option, json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segdeploy.core.artifact import Artifact
    from segdeploy.core.manifest import Parity

_SHOWN = {"failed": "FAILED"}
_STYLES = {"passed": "green", "FAILED": "bold red", "skipped": "yellow"}


@click.command("verify")
@click.argument("artifacts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="A folder of pictures; the validation set by default.")
@click.option("--limit", default=8, show_default=True, type=click.IntRange(min=1), help="Pictures a shape.")
@click.option("--shape", "sizes", metavar="HxW", multiple=True, help="Sizes to verify at; may be repeated.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="With --shape: images a batch.")
@checkpoint_option
@config_option
@device_option
@json_option
def command(
    artifacts: tuple[Path, ...],
    images: Path | None,
    limit: int,
    sizes: tuple[str, ...],
    batch: int,
    checkpoint: Path | None,
    config: str | None,
    device: str,
    json_path: Path | None,
) -> None:
    """Hold ARTIFACTS (all under exports/ by default) against the checkpoint that they came from.

    Exit 0 when all passed, 3 when one failed, 4 when one could not be decided here.
    """
    from segdeploy.core.targets import named_artifacts
    from segdeploy.export.shapes import parse_size
    from segdeploy.export.verify import verify

    shapes = [(batch, *parse_size(size, "--shape")) for size in sizes] or None
    verdicts = [
        (
            artifact,
            verify(
                artifact,
                checkpoint=checkpoint,
                config=config,
                images=images or default_images(artifact),
                limit=limit,
                shapes=shapes,
                device=device,  # type: ignore[arg-type]  # click.Choice holds it
            ),
        )
        for artifact in named_artifacts(artifacts)
    ]
    write_json(json_path, {artifact.name: parity for artifact, parity in verdicts})
    show_verdicts(verdicts)
    gate(verdicts, undecided=True)


def default_images(artifact: Artifact) -> Path | None:
    """The folder of the validation images that the checkpoint's config names, where it is on this machine."""
    from segdeploy.core.dataset import find_samples
    from segdeploy.core.errors import InputError

    root = artifact.manifest.lineage.data_root
    try:
        return find_samples(Path(root), "val")[0].image.parent if root else None
    except InputError:
        return None


def show_verdicts(verdicts: Sequence[tuple[Artifact, Parity]]) -> None:
    """One row a shape, and the reason where there is none."""
    rows = []
    for artifact, parity in verdicts:
        for one in parity.shapes:
            count, height, width = one.shape
            rows.append(
                [
                    artifact.name,
                    _SHOWN.get(one.verdict, one.verdict),
                    f"{count} x {height}x{width}",
                    f"{one.logits_max_abs:.1e}",
                    f"{one.logits_mean_abs:.1e}",
                    f"{100 * one.mask_agreement:.4f} %",
                    str(one.pixels_differ),
                    f"{one.flip_margin_max:.1e}" if one.pixels_differ else "-",
                ]
            )
        if not parity.shapes:
            rows.append([artifact.name, _SHOWN.get(parity.verdict, parity.verdict), *["-"] * 6])
    print_table(
        "Parity with the checkpoint",
        ["artifact", "verdict", "N x HxW", "max |d logit|", "mean", "mask agreement", "pixels differ", "their margin"],
        rows,
        right=2,
        styles=_STYLES,
    )
    for artifact, parity in verdicts:
        if parity.reason:
            click.echo(f"{artifact.name}: {parity.verdict}: {parity.reason}")
        else:
            click.echo(f"{artifact.name}: {parity.verdict} on {parity.inputs}, {parity.device}")


def gate(verdicts: Sequence[tuple[Artifact, Parity]], *, undecided: bool) -> None:
    """End with exit 3 where an artifact failed, and, if asked, with 4 where one could not be verified."""
    from segdeploy.core.errors import GateFailed, GateUndecided

    failed = [artifact.name for artifact, parity in verdicts if parity.verdict == "failed"]
    if failed:
        raise GateFailed(
            expected="outputs within the tolerance", got=f"{', '.join(failed)} failed", fix="do not ship; see the table"
        )
    open_ = [artifact.name for artifact, parity in verdicts if parity.verdict != "passed"]
    if open_ and undecided:
        raise GateUndecided(
            expected="a verdict on every artifact",
            got=f"{', '.join(open_)} could not be run here",
            fix="verify them where they run, or name only the others",
        )
