"""The registered models: list them as a tree, promote, verify and export versions."""

from __future__ import annotations

from pathlib import Path

import click

from nanogpt.commands import options
from nanogpt.config import Config
from nanogpt.errors import require

ACTIONS = ("list", "promote", "verify", "export")


@options.command()
@click.option("--action", type=click.Choice(ACTIONS), default="list", show_default=True,
              help="list: a tree of all; promote: point an alias at a version; verify: load and score every version; "
                   "export: weights as safetensors")
@click.option("--model", default="",
              help=f"of promote and export: {options.MODEL_HELP}; of verify: a part of the names")
@click.option("--alias", default="", help="of promote: the alias that the version gets")
@click.option("--output", default="", help="of export: the file; left out: <domain>-<step>.safetensors")
def registry(config: Config, action: str, model: str, alias: str, output: str) -> None:
    """List, promote, verify or export registered models."""
    from nanogpt.model.safetensors_io import save_safetensors
    from nanogpt.study import verify as verification
    from nanogpt.tracking import registry as store
    from nanogpt.tracking.run import MODELS_PAGE, in_ui

    if action == "list":
        click.echo(store.tree(store.catalogue()) or "nothing is registered here yet")
        click.echo(f"where to look: {in_ui(MODELS_PAGE)}", err=True)
    elif action == "verify":
        verify_versions(model, config)
    elif action == "promote":
        require(bool(alias), "alias must be given to promote", alias)
        click.echo(f"{verification.promote_version(model, alias, config.device)} is now @{alias}")
    else:
        require(bool(model), "model must be given to export", model)
        require(not output or Path(output).is_file() or not Path(output).exists(),
                "output must be a file that can be written", output)
        checkpoint = store.load(model)
        path = Path(output or f"{checkpoint.domain}-{checkpoint.step:06d}.safetensors")
        click.echo(str(save_safetensors(checkpoint, path).resolve()))


def verify_versions(part: str, config: Config) -> None:
    """Say what is wrong with each version. UserError where something is, or where no model's name has this part."""
    from nanogpt.study import verify as verification
    from nanogpt.tracking import registry as store

    bad, versions = 0, [version for version in store.catalogue() if part in version.name]
    require(bool(versions) or not part, f"model must be a part of a registered name ({store.known_models()})", part)
    for version, faults in verification.verify(versions, config.device):
        bad += bool(faults)
        click.echo(f"{version.name} {version.line} · {'; '.join(faults) or 'ok'}")
    require(not bad, "every version must be what the registry says of it", f"{bad} that are not")
