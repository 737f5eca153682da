"""The commands `truth` and `rank`: full training, and how far the proxy and other signals agree with it."""

from typing import Annotated, Any

import typer

from nas_proxy.cli.options import (
    COMBINE,
    SIGNALS,
    Devices,
    Json,
    Run,
    Storage,
    Workers,
    listed,
    option_names,
    where,
)
from nas_proxy.cli.printing import at_work, print_ranking, print_result, rows


def truth_command(
    run: Run, workers: Workers = None, devices: Devices = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Train the sampled architectures and the search's best fully, or look them up in the truth table."""
    with at_work() as terminal:
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.pipeline.settings import resolve
        from nas_proxy.pipeline.stages import run_all, run_stages

        folder, given = open_run(run), where(workers, devices, storage)
        if all(value is None for value in given.values()):
            run_stages(folder, ("truth",), terminal)
        else:
            settings = resolve(given, folder / "run.toml", options=option_names())
            run_all(settings, run, progress=terminal, names=("truth",))
    truth = rows(folder / "truth.csv")
    best = max(truth, key=lambda row: row["accuracy"])
    result = {"architectures": len(truth), "best": best["key"], "accuracy": best["accuracy"]}
    known = "fully trained" if "seconds" in best else "have a published accuracy"
    text = f"{len(truth)} architectures {known}; the best is {best['key']} at {best['accuracy']:.1%}"
    print_result(result, text, as_json=as_json)


def rank_command(
    run: Run,
    signals: Annotated[str | None, typer.Option(help=SIGNALS, metavar="NAMES")] = None,
    combine: Annotated[str | None, typer.Option(help=COMBINE, metavar="NAMES")] = None,
    workers: Workers = None,
    devices: Devices = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Train the controls, compute the others, and judge every signal by the ground truth. Its options stay chosen."""
    with at_work() as terminal:
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.pipeline.settings import resolve
        from nas_proxy.pipeline.stages import run_all

        given: dict[str, Any] = {"signals": listed(signals), "combine": listed(combine)}
        given |= where(workers, devices, storage)
        settings = resolve(given, open_run(run).path / "run.toml", options=option_names())
        run_all(settings, run, progress=terminal, names=("rank",))
    print_ranking(run, as_json=as_json)
