"""A comparison from end to end: settings and a folder in, the paper's table and its files out."""

from pathlib import Path

from nas_proxy.compare.asked import Comparison, asked_by
from nas_proxy.compare.contenders import is_set, recipe_of
from nas_proxy.compare.outputs import write_outputs
from nas_proxy.compare.table import Table, make_table
from nas_proxy.compare.work import check_sample, do_work
from nas_proxy.environment import environment
from nas_proxy.pipeline.checks import check_recipe
from nas_proxy.pipeline.run_folder import RunFolder, check_same, claim
from nas_proxy.pipeline.session import Session, open_session
from nas_proxy.pipeline.settings import RunConfig, default_folder
from nas_proxy.progress import SILENT, Progress
from nas_proxy.spaces.loading import space_digest


def compare(
    config: RunConfig, out: Path | None = None, *, overwrite: bool = False, progress: Progress = SILENT
) -> tuple[RunFolder, Table]:
    """Do what is missing of a comparison in the folder `out`, write its files, and return both.

    Nothing in the folder is touched before data, space and sample have been found in order. Raises a UserError for a
    mistake; killed anywhere, the same call goes on.
    """
    run, comparison = RunFolder(out or default_folder(config), config), asked_by(config)
    with open_session(run, progress) as session:
        if not overwrite:
            check_same(run)
        _check(session, comparison)
        claim(run, overwrite=overwrite)
        work = do_work(session, comparison)
        table = make_table(session, comparison, work, environment(session.device, session.pool.count))
        write_outputs(run, table)
    return run, table


def _check(session: Session, comparison: Comparison) -> None:
    """Find the user's mistakes before the long work."""
    space_digest(session.config.space)
    for name in filter(is_set, comparison.signals):
        check_recipe(session, recipe_of(name, session.config.condense))
    check_sample(session, comparison)
