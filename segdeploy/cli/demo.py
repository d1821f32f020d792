"""``segdeploy demo``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default="demo", show_default=True, help="Where everything goes.")
@click.option("--fresh", is_flag=True, help="Begin again, even where an earlier run has finished something.")
def command(out: Path, fresh: bool) -> None:
    """The whole way on synthetic data: train, export, verify, measure, serve; a report at the end.

    Interrupted, the same command goes on from what is finished.
    """
    from segdeploy.artifact.verdict import Parity
    from segdeploy.base.errors import GateFailed
    from segdeploy.bench.report import print_report
    from segdeploy.bench.result import BenchReport
    from segdeploy.demo import stages
    from segdeploy.demo.journal import Journal, fingerprint
    from segdeploy.demo.report import SCHEMA, DemoReport, problems, stage_times, write_report

    places = stages.Places(out)
    stages.claim(places)
    state, identity = out / "state.json", fingerprint(stages.inputs())
    journal = Journal(state, identity)
    if fresh or not journal.continues:
        stages.clear(places)  # what another version or config has made is not taken up, half a training least of all
        journal = Journal(state, identity)
    say = partial(click.echo, err=True)
    journal.run("data", int, [places.data], lambda: stages.make_data(places), say)
    trained = journal.run("train", stages.Trained, [places.work_dir], lambda: stages.train(places), say)
    parity = {}
    for fmt in stages.FORMATS:
        folder = places.artifact(fmt)
        journal.run(f"export {fmt}", str, [folder], partial(stages.export, places, trained, fmt), say)
        parity[fmt] = journal.run(f"verify {fmt}", Parity, [folder], partial(stages.verify, places, fmt), say)
    measured = journal.run("bench", BenchReport, [places.pictures], lambda: stages.bench(places, trained), say)
    served = journal.run("serve", stages.Served, [places.store], lambda: stages.serve(places), say)

    report = DemoReport(SCHEMA, stage_times(journal.stages), trained, parity, measured, served)
    page = write_report(places, report)
    print_report(measured)
    click.echo(f"val mIoU of the checkpoint: {trained.evaluation.miou:.2f}")
    for fmt, one in parity.items():
        click.echo(f"parity of {fmt}: {one.verdict}" + (f": {one.reason}" if one.reason else ""))
    click.echo(f"served masks identical: {served.identical} of {served.images}")
    click.echo(f"time: {sum(stage.seconds for stage in report.stages):.0f} s in all")
    click.echo(f"report: {page} and {page.with_suffix('.json')}")
    onnx = places.artifact("onnx")
    click.echo("next:")
    click.echo(f"  segdeploy predict {onnx} IMAGE --out predictions")
    click.echo(f"  segdeploy inspect {onnx}")
    click.echo(f"  segdeploy serve {served.archive}")
    click.echo("  segdeploy train CONFIG && segdeploy export --to onnx     with a model of your own")
    broken = problems(report)
    if broken:
        raise GateFailed(expected="a demo that keeps its promises", got="; ".join(broken), fix=f"see {page}")
