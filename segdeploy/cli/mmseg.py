"""``segdeploy mmseg``."""

from __future__ import annotations

import itertools

import click


@click.command("mmseg", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("tool", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def command(tool: str | None, arguments: tuple[str, ...]) -> None:
    """Run one of mmseg's own tools with ARGS, as installed; without TOOL, list them.

    A tool that takes a config also takes a name from configs/training, or mmseg::family/name.py. The tools are mmseg's
    programs: unlike segdeploy's own commands they may execute code that a checkpoint names.

    \b
    Examples:
      segdeploy mmseg get_flops upernet_r18_synthetic --shape 512 512
      segdeploy mmseg voc_aug --help
    """  # noqa: D301  the backslash is click's: it keeps the lines as they are
    from segdeploy.training.mmseg_tools import INSTEAD, MENDS, find_tool, list_tools, run_tool

    if tool is not None:
        found = find_tool(tool)
        if found.label in MENDS:
            click.echo(f"note: mmseg's {found.name}, changed for this run: {MENDS[found.label].effect}", err=True)
        run_tool(found, list(arguments))
        return
    tools = list_tools()
    width = max(len(one.name) for one in tools)
    for group, members in itertools.groupby(tools, key=lambda one: one.group):
        click.echo(f"{group or 'runners'}:")
        for one in members:
            instead = f" (fails on current packages; use: {INSTEAD[one.label]})" if one.label in INSTEAD else ""
            click.echo(f"  {one.name:<{width}}  {one.summary}{instead}")
