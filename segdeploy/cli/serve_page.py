"""``segdeploy serve --page``, of whatever engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import click


@contextlib.contextmanager
def page_beside(url: str, headers: Mapping[str, str], port: int | None) -> Iterator[None]:
    """Serve the page beside an engine while the block runs, and print its address.

    Args:
        url: of the model at the engine.
        headers: that the engine wants with every request.
        port: of the page; 0 for a free one, None for no page.
    """
    if port is None:
        yield
        return
    from segdeploy.serve.page.server import start_page

    with start_page(url, headers, port=port) as address:
        click.echo(f"page, for whoever knows this address: {address}")
        yield
