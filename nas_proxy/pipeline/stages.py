"""The stages of a run or a comparison, one by one and in a row; each does only what the folder does not hold yet.

    condense   the proxy
    search     on the proxy: the uniform sample, which judges; then of the pool what its scores and these trainings
               favour (`pool`, `choosing`)
    truth      full trainings, a round after another, each chosen by all that is known; the sample spread among them
               (`full_trainings`); the best by posterior mean is the pick
    rank       every signal judged on the sample, and what the search saved
    report     the page

A comparison has the stages of a run: its plan has other signals, and everything in it is the sample.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nas_proxy.condensation.checkpoint import remove
from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.condensation.evaluation import NETWORKS, Evaluation, evaluate, paper_recipe
from nas_proxy.condensation.published_sets import write_folder
from nas_proxy.data.images import ImageSet
from nas_proxy.data.picture import write_grid, write_real
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development
from nas_proxy.environment import environment
from nas_proxy.errors import RunFolderError
from nas_proxy.files import write_json
from nas_proxy.names import PROXY, TRUTH
from nas_proxy.pipeline import scoring
from nas_proxy.pipeline.budget import keep_plan
from nas_proxy.pipeline.checks import check, check_sample
from nas_proxy.pipeline.choosing import choosing_of_pool
from nas_proxy.pipeline.dry_run import announce, planned, with_plan
from nas_proxy.pipeline.full_trainings import chosen_of, full_trainings, how_it_stands, proxy_ends
from nas_proxy.pipeline.ground_truth import train_fully, truth_of
from nas_proxy.pipeline.judgement import judge
from nas_proxy.pipeline.problem import choose_device, open_problem, open_prospect, opened, read_data
from nas_proxy.pipeline.tables import write_tables
from nas_proxy.pipeline.work import Work, make_sets, work_in
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.believed import NAME as SEARCH
from nas_proxy.ranking.believed import is_finished, write_order
from nas_proxy.report.page import write_report
from nas_proxy.runs import heartbeat
from nas_proxy.runs.folder import RunFolder, check_same, claim
from nas_proxy.runs.settings import RUN_FILE, RunConfig, default_folder
from nas_proxy.signals.signal import SmallSet, plan_of
from nas_proxy.signals.stored_names import checkpoint_path, set_path
from nas_proxy.spaces.limits import Limited
from nas_proxy.spaces.loading import Given
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.storage.trial_store import explained
from nas_proxy.strategy.search import search
from nas_proxy.threads import one_thread_in_numpy
from nas_proxy.training.pruning import WILCOXON_LEAST


def condense_stage(work: Work) -> None:
    """Make the sets of all signals; a run's proxy with `proxy.png`, and `real.png` to look at beside it."""
    if work.plan.lead != PROXY:
        scoring.make_sets(work)
        return
    signal, path = work.plan[PROXY], set_path(work.run.path, PROXY, 0)
    group = work.sets.group
    group.agree(not path.exists() and work.config.condense.learnt)
    scoring.sets_of(work, signal)
    condensed, train = ImageSet.load(path), work.problem.data.train
    write_grid(condensed, train, work.run / "proxy.png")
    write_real(condensed, train, work.run / "real.png")


def search_stage(work: Work) -> None:
    """Train the sample and the proposals on the lead signal's images."""
    config, say = work.config, work.progress.say
    if work.plan.lead == PROXY:
        _require_proxy(work)
        if config.pruner == "wilcoxon" and config.seeds < WILCOXON_LEAST:
            say(
                f"--pruner wilcoxon cannot be sure of anything from {config.seeds} seeds, so it prunes nothing; "
                f"give --seeds {WILCOXON_LEAST} or more."
            )
        if config.trials < config.sample:
            say(
                f"The sample of {config.sample} is more than --trials {config.trials}: all of it is trained on the "
                "proxy, and nothing is proposed for it."
            )
    wanted = scoring.lead_search(work)
    if wanted is None:
        return
    chosen = list[Record]()
    try:
        if wanted.proposals and wanted.sampler == "ei" and work.plan.lead == PROXY:
            search(work.trainer, replace(wanted, proposals=0))
            wanted = choosing_of_pool(work, wanted)
        search(work.trainer, replace(wanted, until=proxy_ends(work)))
        for part in dict.fromkeys((work.problem.space, work.trainer.space)):
            if isinstance(part, Limited) and (left_out := part.left_out()) is not None:
                say(f"{left_out}.")
        # What a search has chosen of published accuracies alone stays in the tables; no study holds it.
        if work.problem.table is not None and (work.run / SEARCH).exists():
            chosen = chosen_of(work, how_it_stands(work))
    finally:
        write_tables(work, chosen=chosen)


def _require_proxy(work: Work) -> None:
    """Raise RunFolderError where the condensed set is not there yet, or is of other data."""
    path = set_path(work.run.path, PROXY, 0)
    if not path.exists():
        ImageSet.load(path)  # says "condense first"
    work.sets.opened(path)


def truth_stage(work: Work) -> None:
    """Train the ground truth; there is nothing to train where a table holds it. A run searches by it as well."""
    sample, chosen = list(scoring.sample_of(work)), list[Record]()
    try:
        if work.problem.table is None:
            work.store.bind(TRUTH, "data", work.problem.data.fingerprint)
        if work.plan.lead == PROXY:
            chosen = chosen_of(work, full_trainings(work))
        elif work.problem.table is None:
            train_fully(work.trainer, work.files, work.config.full_training, sample, work.config.seeds_of_truth)
    finally:
        write_tables(work, chosen=chosen)


def rank_stage(work: Work) -> None:
    """Train and compute what is missing of the other signals, judge all of them and write `ranking.json`."""
    sample = scoring.sample_of(work)
    lead = work.store.records(work.plan.lead) if work.plan.lead is not None else []
    trained: Sequence[Record | Candidate] = [r for r in lead if r.complete and r.draw == 0] or sample
    found = how_it_stands(work) if work.plan.lead == PROXY else None
    chosen = [] if found is None else chosen_of(work, found)
    trained = [*trained, *chosen]
    truth = truth_of(work.store, work.problem.table, trained, work.config.seeds_of_truth)
    if truth is None:
        raise RunFolderError(f"nothing is fully trained yet; first run: nas-proxy truth {work.run.path}")
    scores = scoring.score_sample(work)
    made = environment(work.problem.device, work.executor.count)
    ranking, made_of_others = judge(work, scores, truth, made, found)
    write_tables(work, scores.studies, made_of_others, chosen)
    if found is not None:  # other signals may make another pick
        reach = work.config.reach
        finished = is_finished(work.run.path, reach, work.run / RUN_FILE)
        write_order(work.run.path, found.order, reach=reach if finished else None)
    write_json(work.run / "ranking.json", ranking)


def report_stage(work: Work) -> None:
    """Write the page: `report.html` of a run; `compare.html`, `table.csv` and `table.md` of a comparison."""
    write_report(work.run.path)


STAGES: dict[str, Callable[[Work], None]] = {
    "condense": condense_stage,
    "search": search_stage,
    "truth": truth_stage,
    "rank": rank_stage,
    "report": report_stage,
}


def do(work: Work, names: Sequence[str]) -> None:
    """Do the stages in their order."""
    with one_thread_in_numpy():
        for name in names:
            STAGES[name](work)


def run_stages(
    run: RunFolder, names: tuple[str, ...] = tuple(STAGES), progress: Progress = SILENT, *, space: Given | None = None
) -> None:
    """Do stages of a run as it is, holding its folder. space: where it was given itself, see `run_all`."""
    with run.lock(), explained(run.place):
        heartbeat.refuse_another(run)
        problem = open_problem(run.config, progress, space)
        with work_in(run, problem, progress) as work:
            do(work, names)


def run_all(
    config: RunConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    names: Sequence[str] = tuple(STAGES),
    group: ProcessGroup = ALONE,
    space: Given | None = None,
) -> RunFolder:
    """Do the stages `names` of the run or comparison `config` in the folder `out`, and return the folder.

    out: `default_folder` if not given. space: a `Space` or a function itself, which `config.space` then only names,
    see `nas_proxy.spaces.by_value`. Nothing in the folder is touched, or replaced, before the user's data and space
    have been found in order. Raises a UserError for a mistake; killed anywhere, the same call goes on.
    """
    folder = out or default_folder(config)
    run = RunFolder(folder, config if overwrite else with_plan(config, folder))
    if "rank" in names:
        check_sample(run.config)
    with run.lock(), explained(run.place):
        heartbeat.refuse_another(run)
        if not overwrite:
            check_same(run)
        start = time.monotonic()
        prospect = open_prospect(run.config, progress, space)
        check(prospect, names)
        run, prospect, plan, speeds = planned(run, prospect, names, progress, overwrite=overwrite)
        prospect = replace(prospect, config=run.config)
        announce(run, prospect, names, progress, overwrite=overwrite, speeds=speeds, plan=plan)
        problem = opened(prospect, progress)
        claim(run, overwrite=overwrite)
        if plan is not None:
            keep_plan(run.path, plan)
        with work_in(run, problem, progress, group, start) as work:
            do(work, names)
    return run


def assist(config: RunConfig, out: Path, group: ProcessGroup) -> None:
    """Take part in the condensation of a process that holds the run folder, as one of several."""
    run = RunFolder(out, config)
    problem = open_problem(config)
    check(problem)
    if group.agree():
        signal = plan_of(config)[PROXY]
        assert isinstance(signal.source, SmallSet)
        sets = make_sets(run, problem, SILENT, group)
        sets.make(signal, 0, lambda: group.gathered(None)[0])
        group.agree()
        remove(checkpoint_path(run.path, PROXY, 0), group)


def evaluate_run(run: RunFolder, epochs: float, progress: Progress = SILENT, *, network: str = "convnet") -> Evaluation:
    """Train networks of one kind on the condensed set of a run, and on random images, by the paper's recipe."""
    with run.lock():
        device, data = _device_and_data(run, progress)
        recipe = run.config.condense
        with progress.stage("Evaluate", 2 * NETWORKS) as bar:
            return evaluate(
                proxy_images(run, data.fingerprint),
                data.train,
                data.validation,
                paper_recipe(epochs, recipe.augmentation),
                run.config.seed,
                width=recipe.width,
                depth=recipe.depth,
                network=network,
                device=device,
                progress=bar.to,
            )


def export_images(run: RunFolder, folder: Path, progress: Progress = SILENT) -> None:
    """Write the condensed images of a run as PNG files, a folder a class."""
    with run.lock():
        _, data = _device_and_data(run, progress)
        write_folder(proxy_images(run, data.fingerprint), data.train, folder)


def _device_and_data(run: RunFolder, progress: Progress) -> tuple[str, Development]:
    """Return what works on the images alone needs; a space that was given itself need not be given again."""
    config = run.config
    device = choose_device(next(iter(config.devices), config.device))
    return device, read_data(
        open_source(config.dataset, image_size=config.image_size, say=progress.say), config, progress
    )


def proxy_images(run: RunFolder, fingerprint: str) -> ImageSet:
    """Return the condensed set of a run. Raises RunFolderError where it was made of other data."""
    path = set_path(run.path, PROXY, 0)
    metadata, images = ImageSet.load_metadata(path), ImageSet.load(path)
    if metadata.get("data_fingerprint") != fingerprint:
        raise RunFolderError(
            f"{path} was made from other data (fingerprint {metadata.get('data_fingerprint')}, the data now has "
            f"{fingerprint}); restore the data or start again with --overwrite"
        )
    return images
