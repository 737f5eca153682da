"""`nas-proxy worker`: join a run that another machine coordinates."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from nas_proxy.cli.options import Devices, Json, given, option_names
from nas_proxy.cli.printing import at_work, print_result


def worker_command(
    place: Annotated[str, typer.Argument(help="A run folder, or the URL of its database.", metavar="RUN_OR_URL")],
    run: Annotated[str | None, typer.Option(help="Name of the run, where the database holds several.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Where the run's data is on this machine.")] = None,
    space: Annotated[str | None, typer.Option(help="Where the run's search space is on this machine.")] = None,
    proxy: Annotated[Path | None, typer.Option(help="The run's proxy.safetensors, if not from the database.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    devices: Devices = None,
    workers: Annotated[int, typer.Option(help="Processes that train; 0: one a core, or 1 to 4 on a GPU.", min=0)] = 0,
    idle_minutes: Annotated[float, typer.Option(help="End after so long without a training.", min=0)] = 10.0,
    as_json: Json = False,
) -> None:
    """Train for a run whose studies are in a PostgreSQL database, until it is done. Start as many as you like.

    Settings, fingerprints and the condensed set come from the run; version, data and space must be the same here.
    """
    chosen = given(locals())
    with at_work() as terminal:
        from nas_proxy.pipeline.worker import Here, work
        from nas_proxy.runs.settings import resolve

        settings = resolve(chosen, options=option_names())  # finds mistakes, and makes paths absolute
        here = Here(
            dataset=None if dataset is None else settings.dataset,
            space=None if space is None else settings.space,
            proxy=proxy,
            device=settings.device,
            devices=settings.devices,
            workers=settings.workers,
            idle_minutes=idle_minutes,
        )
        tally = work(place, run, here, terminal)
    trained = f"{tally.trained} architecture{'' if tally.trained == 1 else 's'} trained, {tally.failed} failed"
    print_result(asdict(tally), f"{trained}; {tally.ended}", as_json=as_json)
