"""A comparison's settings as the modules of this package read them: one flat object from a RunConfig."""

from dataclasses import dataclass
from pathlib import Path

from nas_proxy.pipeline.run_folder import open_run
from nas_proxy.pipeline.settings import RunConfig


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how; see `nas_proxy.pipeline.settings.Comparison`."""

    run: RunConfig
    signals: tuple[str, ...]
    combine: tuple[str, ...]
    score: str
    draws: int
    passes: int | None
    candidates: int | None

    @property
    def sharing(self) -> int:
        """The number of candidates that share the cost of making a set."""
        return self.candidates or self.run.truth


def asked_by(config: RunConfig) -> Comparison:
    """Return what the settings of a comparison ask for."""
    asked = config.compare
    assert asked is not None
    return Comparison(config, asked.signals, asked.combine, asked.score, asked.draws, asked.passes, asked.candidates)


def open_comparison(folder: Path) -> Comparison:
    """Return the comparison in a folder. Raises RunFolderError where its settings cannot be read."""
    return asked_by(open_run(folder).config)
