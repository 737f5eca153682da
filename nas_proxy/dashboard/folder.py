"""Which kind of folder is looked at: a run's, or a comparison's."""

from pathlib import Path

from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.run_folder import is_comparison, open_run
from nas_proxy.pipeline.settings import COMPARISON_FILE, RUN_FILE


def checked(folder: Path) -> Path:
    """Return a folder that holds a run or a comparison. Raises RunFolderError for any other."""
    if is_comparison(folder):
        return folder
    if folder.is_dir() and not (folder / RUN_FILE).is_file():
        raise RunFolderError(
            f"{folder} holds neither a run (it has no {RUN_FILE}) nor a comparison (it has no {COMPARISON_FILE}); "
            f"make one with: nas-proxy run --out {folder}, or nas-proxy compare --out {folder}"
        )
    return open_run(folder).path
