"""The export command: a store's runs to an experiment tracker."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from raysweep.cli.asking import Json
from raysweep.cli.show import print_json, say
from raysweep.terminal import counted


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(export)


def export(
    store: Annotated[str, typer.Argument(metavar="STORE", help="A sweep's folder or URI.", show_default=False)],
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="One of tensorboard, mlflow, wandb.")],
    dest: Annotated[
        str | None, typer.Option(metavar="PATH_OR_URI", help="A folder, or MLflow's tracking URI.", show_default=False)
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="COL", help="Only this metric; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Send a store's runs to TensorBoard, MLflow or W&B. Run it again to add what is new, also while the sweep runs."""
    from raysweep.export import export as send
    from raysweep.store import Store

    found = send(Store(store), to, dest, metric or ())
    if json:
        print_json(asdict(found))
        return
    added = counted(found.points, "value")
    say(f"{counted(found.runs, 'run')}; {found.written:,} with news, {added} added: {found.dest}")
    how = {
        "tensorboard": f"tensorboard --logdir {found.dest}",
        "mlflow": f"mlflow ui --backend-store-uri {found.dest}" if "http" not in found.dest else found.dest,
        "wandb": f"wandb sync {found.dest}/offline-run-*",
    }
    say(f"view it with: {how[to]}")
