"""Which kind of folder is looked at: a run's, or a comparison's."""

from pathlib import Path

from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.run_folder import open_run

RUN, COMPARISON = "run.toml", "compare.toml"


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is a comparison's, as its settings tell, rather than a run's."""
    return (folder / COMPARISON).is_file() and not (folder / RUN).is_file()


def checked(folder: Path) -> Path:
    """Return a folder that holds a run or a comparison. Raises RunFolderError for any other."""
    if is_comparison(folder):
        return folder
    if folder.is_dir() and not (folder / RUN).is_file():
        raise RunFolderError(
            f"{folder} holds neither a run (it has no {RUN}) nor a comparison (it has no {COMPARISON}); make one with: "
            f"nas-proxy run --out {folder}, or nas-proxy compare --out {folder}"
        )
    return open_run(folder).path
