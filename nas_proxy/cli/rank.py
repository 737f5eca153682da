"""The commands `truth` and `rank`: full training, and how far the proxy and other signals agree with it."""

from nas_proxy.cli import options as o
from nas_proxy.cli.options import given, option_names
from nas_proxy.cli.printing import at_work, found_by_truth, print_ranking, print_result, rows


def truth_command(
    run: o.Run,
    workers: o.Workers = None,
    ray: o.Ray = None,
    gpus_per_candidate: o.Gpus = None,
    devices: o.Devices = None,
    storage: o.Storage = None,
    as_json: o.Json = False,
) -> None:
    """Train the sample and what the search chooses fully, round after round, or look them up in the truth table."""
    chosen = given(locals())
    from nas_proxy.runs.folder import open_run, with_changes

    folder = open_run(run, comparisons=False)
    with at_work() as terminal:
        from nas_proxy.pipeline.stages import run_all, run_stages

        if all(value is None for value in chosen.values()):
            run_stages(folder, ("truth",), terminal)
        else:
            settings = with_changes(folder.path, chosen, option_names())
            run_all(settings, run, progress=terminal, names=("truth",))
    result, text = found_by_truth(rows(folder / "truth.csv"))
    print_result(result, text, as_json=as_json)


def rank_command(
    run: o.Run,
    signals: o.Signals = None,
    combine: o.Combine = None,
    workers: o.Workers = None,
    ray: o.Ray = None,
    gpus_per_candidate: o.Gpus = None,
    devices: o.Devices = None,
    storage: o.Storage = None,
    as_json: o.Json = False,
) -> None:
    """Train the controls, compute the others, and judge every signal by the ground truth. Its options stay chosen."""
    chosen = given(locals())
    from nas_proxy.runs.folder import open_run, with_changes

    folder = open_run(run, comparisons=False)
    with at_work() as terminal:
        from nas_proxy.pipeline.stages import run_all

        settings = with_changes(folder.path, chosen, option_names())
        run_all(settings, run, progress=terminal, names=("rank",))
    print_ranking(run, as_json=as_json)
