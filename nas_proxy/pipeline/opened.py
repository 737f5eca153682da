"""A run or a comparison in its folder as an object: what the folder holds as frames, images, a study and a ranking.

In: a folder, of any stage. Out: values that are read when they are asked for, so that an object shows how far a run
has come by now. Guarantees: nothing is trained, held or written; what is not there yet is told of by a RunFolderError
that says what makes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy import notebook
from nas_proxy.condensation.proxy_set import ProxySet, open_proxy
from nas_proxy.data.images import ImageSet
from nas_proxy.data.picture import sample_png
from nas_proxy.errors import ConfigError, RunFolderError, nearest
from nas_proxy.names import PROXY
from nas_proxy.pipeline.final import FOLDER, Final
from nas_proxy.pipeline.load_final import read_told
from nas_proxy.pipeline.tables import trials_table
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report import signal_figures, table, trial_figures
from nas_proxy.report.formats import duration
from nas_proxy.report.pictures import read_picture
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import read_run, usable
from nas_proxy.report.verdict import verdict
from nas_proxy.runs.folder import RunFolder
from nas_proxy.signals.signal import plan_of
from nas_proxy.signals.stored_names import set_path
from nas_proxy.storage.location import study_name
from nas_proxy.storage.read_only import open_studies, readable
from nas_proxy.storage.records import finished

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from plotly.graph_objects import Figure

    from nas_proxy.runs.settings import RunConfig
    from nas_proxy.spaces.loading import Given

# Rows of a table in a notebook.
BEST = 10


class Proxy(notebook.Shown):
    """The condensed set of a run: what networks are trained on instead of all images.

    folder: of the run. made: how it came about.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.folder = run.path
        self.made: ProxySet = open_proxy(set_path(run.path, PROXY, 0))

    @property
    def path(self) -> Path:
        """The file that it is in."""
        return self.made.path

    @cached_property
    def images(self) -> ImageSet:
        """The images: uint8, (n, channels, height, width), with labels and classes."""
        return ImageSet.load(self.path)

    @cached_property
    def losses(self) -> tuple[float, ...]:
        """The loss at every tenth step; none for images that were chosen or read."""
        told = ImageSet.load_metadata(self.path).get("losses", [])
        return tuple(float(loss) for loss in told) if isinstance(told, list) else ()

    def __repr__(self) -> str:
        held = f"{self.made.stored} images of {len(self.images.classes)} classes"
        steps = f", {self.run.config.condense.steps} steps" if self.losses else ""
        return f"Proxy({str(self.folder)!r}: {held}, {self.made.method}{steps}, {duration(self.made.seconds)})"

    def _repr_html_(self) -> str:
        shown = _pictures(self.folder) or [("Condensed", *sample_png(self.images))]
        return notebook.page(notebook.line(repr(self)), notebook.pictures(shown))


class FolderRanking(Ranking, notebook.Shown):
    """The ranking of a run or a comparison: a `Ranking` that shows itself, with figures of what its folder holds."""

    folder: Path

    @staticmethod
    def in_folder(folder: Path) -> FolderRanking:
        """Return the ranking in a folder. Raises RunFolderError where there is none yet."""
        read = Ranking.read(folder / "ranking.json")
        found = FolderRanking(**{field.name: getattr(read, field.name) for field in fields(Ranking)})
        object.__setattr__(found, "folder", folder)
        return found

    @property
    def verdict(self) -> str:
        """How far the signals can be trusted, in a sentence or two."""
        return str(verdict(self))

    def plot(self, kind: str | None = None) -> Figure:
        """Return a Plotly figure; of a run the ranks, of a comparison the correlations, if no kind is given.

        kind: "ranks" (by the proxy against by full training, of a run), "spearman" or "better_half" (of all signals,
        with their intervals), "seconds" or "passes" (correlation against cost). Raises ConfigError for another one.
        """
        kinds: dict[str, Callable[[], Figure]] = {
            "ranks": self._ranks,
            "spearman": lambda: signal_figures.spearman_dots(self, "spearman"),
            "better_half": lambda: signal_figures.spearman_dots(self, "spearman_top_half"),
            "seconds": lambda: signal_figures.correlation_by_cost(self, "seconds"),
            "passes": lambda: signal_figures.correlation_by_cost(self, "passes"),
        }
        if not self.searched:
            del kinds["ranks"]
        kind = next(iter(kinds)) if kind is None else kind
        if kind not in kinds:
            raise ConfigError([f"kind is {kind!r}{nearest(kind, kinds)}"])
        return kinds[kind]()

    def _ranks(self) -> Figure:
        held = read_run(self.folder)
        return ranks_against_truth(held.trials, held.truth, held.by)

    def _repr_html_(self) -> str:
        shown = [column for column in table.columns(self) if column.main or not self.searched]
        names = [(key, name.replace("  ", "\u2003")) for key, name in table.names(self)]
        rows = [(name, *(column.text(self.row(key)) for column in shown)) for key, name in names]
        heads = ("Signal", *(table.heading(column, self) for column in shown))
        return notebook.page(notebook.line(self.verdict, bold="Verdict:"), notebook.table(rows, heads))

    def _figures(self) -> Sequence[Figure]:
        return [self.plot()]


@dataclass(frozen=True, repr=False)
class Run(notebook.Shown):
    """A run or a comparison in its folder, as far as it has come.

    place: its folder and settings. space: the search space, where it was given itself and no file has it.
    """

    place: RunFolder
    space: Given | None = None

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.place.path

    @property
    def config(self) -> RunConfig:
        """The settings."""
        return self.place.config

    @property
    def report(self) -> Path:
        """The page to read in a browser."""
        return self.place / ("report.html" if self.config.compare is None else "compare.html")

    @property
    def proxy(self) -> Proxy:
        """The condensed set of a run."""
        return Proxy(self.place)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study of the search, read-only; of a comparison, that of the signal that finds its sample.

        Raises RunFolderError before anything has been trained, and for a comparison that trains nothing.
        """
        lead = plan_of(self.config).lead
        if lead is None:
            raise RunFolderError(f"the comparison in {self.folder} trains nothing, so it has no study")
        return self._study(lead)

    @property
    def studies(self) -> Mapping[str, optuna.Study]:
        """All studies, by the names of the signals: a training is a trial."""
        return {name: self._study(name) for name in self._names()}

    def _names(self) -> list[str]:
        storage = open_studies(self.folder)
        start = study_name(self.place.place, "")
        with readable(self.place.place):
            return [study.study_name.removeprefix(start) for study in storage.get_all_studies()]

    def _study(self, signal: str) -> optuna.Study:
        import optuna

        storage = open_studies(self.folder)
        with readable(self.place.place):
            if signal not in self._names():
                raise RunFolderError(f"nothing is trained yet in {self.folder}; first search on the condensed set")
            return optuna.load_study(study_name=study_name(self.place.place, signal), storage=storage)

    @property
    def trials(self) -> pd.DataFrame:
        """A row a candidate of the search, in the order in which they were chosen; the columns of trials.csv.

        Of a comparison, a row a training: the same columns after `signal` and `draw`. Scores are fractions of the
        validation images, seconds those of one core or of the GPU.
        """
        import pandas as pd

        if self.config.compare is None:
            return self._frame("trials.csv", "search")
        found = []
        for name, study in self.studies.items():
            records = finished(study.get_trials(deepcopy=False), {})
            rows = trials_table(records, set())
            if len(rows):
                found.append(rows.assign(signal=name, draw=[record.draw for record in records]))
        if not found:
            return pd.DataFrame()
        joined = pd.concat(found, ignore_index=True)
        return joined[["signal", "draw", *(name for name in joined if name not in ("signal", "draw"))]]

    @property
    def truth(self) -> pd.DataFrame:
        """A row an architecture that was fully trained; accuracies are fractions of the test images."""
        return self._frame("truth.csv", "truth")

    @property
    def scores(self) -> pd.DataFrame:
        """A row an architecture of the uniform sample, a column a signal."""
        return self._frame("scores.csv", "rank")

    def _frame(self, name: str, stage: str) -> pd.DataFrame:
        import pandas as pd

        try:
            # A key or a label may be called "NA", and a key be all digits.
            return pd.read_csv(self.place / name, dtype={"key": str}, keep_default_na=False, na_values=[""])
        except pd.errors.EmptyDataError:  # of what was cut off before its first training
            return pd.DataFrame()
        except FileNotFoundError:
            first = f"nas-proxy {stage} {self.folder}"
            raise RunFolderError(f"{self.folder} holds no {name} yet; first run: {first}") from None

    @property
    def ranking(self) -> FolderRanking:
        """How far the signals rank as full training does. Raises RunFolderError before they are judged."""
        return FolderRanking.in_folder(self.folder)

    @property
    def pick(self) -> dict[str, Any]:
        """The fully trained architecture of largest posterior mean, its score on the proxy and its truth."""
        picked: dict[str, Any] = self.ranking["pick"]
        return picked

    @property
    def final(self) -> Final | None:
        """The final network, None where none has been trained."""
        told = read_told(self.place / FOLDER)
        return None if told is None else Final(self.place / FOLDER, told, {}, self.space)

    def __repr__(self) -> str:
        kind = "run" if self.config.compare is None else "comparison"
        return f"Run({str(self.folder)!r}: {kind}, {self._come()})"

    def _come(self) -> str:
        """Return how far it has come."""
        with contextlib.suppress(RunFolderError):
            ranking = self.ranking
            picked = "" if ranking.pick is None else f", pick {ranking.pick.key}"
            return f"{ranking.n} architectures ranked{picked}"
        with contextlib.suppress(RunFolderError):
            trained = self.trials
            return f"{len(trained)} trainings" if len(trained) else "nothing trained"
        return "nothing trained"

    def _repr_html_(self) -> str:
        parts = [notebook.line(repr(self))]
        with contextlib.suppress(RunFolderError):
            parts.append(self.ranking._repr_html_())
        parts.append(notebook.pictures(_pictures(self.folder)))
        if len(best := self._best()):
            parts += [notebook.line(f"The {len(best)} best of the search:"), notebook.frame(best)]
        if (final := self.final) is not None:
            parts.append(final._repr_html_())
        return notebook.page(*parts)

    def _best(self) -> pd.DataFrame:
        """Return the best candidates, with their accuracy in full training where that is known."""
        held = read_run(self.folder)
        rows = held.trials[usable(held.trials)].drop_duplicates("key").nlargest(BEST, "score")
        known = rows[["key", "phase", "score", "params"]].rename(columns={"score": "score on the proxy"})
        if held.truth.empty:
            return known
        full = held.truth.drop_duplicates("key")[["key", "accuracy"]].rename(columns={"accuracy": "full training"})
        return known.merge(full, on="key", how="left")

    def _figures(self) -> Sequence[Figure]:
        with contextlib.suppress(RunFolderError):
            return [self.ranking.plot()]
        held = read_run(self.folder)
        return [trial_figures.history(held.trials, held.by)] if len(held.trials) else []


def _pictures(folder: Path) -> list[tuple[str, bytes, int]]:
    """Return the condensed images of a run and real ones, where the folder has them."""
    damaged: list[tuple[str, str]] = []
    named = [("Condensed", "proxy.png"), ("Real", "real.png")]
    found = [(name, read_picture(folder / file, damaged)) for name, file in named]
    return [(name, picture.content, picture.width) for name, picture in found if picture is not None]
