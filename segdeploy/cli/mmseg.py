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
    from segdeploy.training.mmseg_tools import OURS, find_tool, list_tools, run_tool

    if tool is not None:
        run_tool(find_tool(tool), list(arguments))
        return
    tools = list_tools()
    width = max(len(one.name) for one in tools)
    for group, members in itertools.groupby(tools, key=lambda one: one.group):
        click.echo(f"{group or 'runners'}:")
        for one in members:
            ours = OURS.get(one.label)
            instead = f" ({f'not run: {ours.why}; use' if ours.why else 'ours'}: {ours.command})" if ours else ""
            click.echo(f"  {one.name:<{width}}  {one.summary}{instead}")
