"""``segdeploy doctor``."""

from __future__ import annotations

import click

from segdeploy.cli.options import print_table


@click.command("doctor")
def command() -> None:
    """What this machine can run, and what to install for the rest."""
    import platform

    from segdeploy.runtime.backends.tensorrt_flavour import local_gpu
    from segdeploy.runtime.doctor import capabilities
    from segdeploy.runtime.open import usable_cpus

    gpu = local_gpu()
    click.echo(f"{platform.platform()}, Python {platform.python_version()}, {usable_cpus()} CPUs usable")
    click.echo(f"GPU: {gpu.name} ({gpu.compute_capability})" if gpu else "GPU: none")
    rows = [[one.purpose, "yes" if one.works else "no", one.found, one.remedy] for one in capabilities(gpu)]
    styles = {"yes": "green", "no": "yellow"}
    print_table("What this machine can do", ["", "", "with", "to get it"], rows, right=9, styles=styles)
