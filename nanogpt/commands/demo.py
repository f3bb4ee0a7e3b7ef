"""A local page to play with the registered models."""

from __future__ import annotations

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.errors import UserError


@options.command()
@click.option("--port", type=int, default=7860, show_default=True, help="of the page, on this machine alone")
def demo(config: Config, port: int) -> None:
    """Serve a page: a prompt, each domain's continuation, and what each character rested on."""
    from nanogpt.tracking import registry

    try:
        from nanogpt.apps.demo import create_server
    except ModuleNotFoundError as error:
        raise UserError('demo needs its extra: pip install -e ".[demo]"') from error
    server = create_server(registry.catalogue(), port)
    click.echo(f"http://127.0.0.1:{port}  (Ctrl+C ends it)")
    server.serve_forever()
