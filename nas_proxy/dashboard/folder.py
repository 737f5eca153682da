"""What a folder holds now: a run's or a comparison's folder in; its trials by signal out. It only reads.

A command may be at work in the folder meanwhile: nothing of it is held, and what is half made counts as not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optuna.trial import FrozenTrial, TrialState

from nas_proxy.names import TRUTH
from nas_proxy.ranking.believed import read_order
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.heartbeat import Command
from nas_proxy.signals.score_file import KeptScore, ScoreFile
from nas_proxy.signals.signal import Plan, Signal, plan_of
from nas_proxy.signals.stored_names import is_looked_up, score_name, study_of
from nas_proxy.storage.location import Location, study_name
from nas_proxy.storage.records import LATENCY, Record, finished


@dataclass(frozen=True)
class Look:
    """What a folder holds at one moment.

    studies: the number of each study that is there, by signal; full training and latencies have one, too. plans: what
    a study of random images at equal cost trains on. at_work: whether a command holds the folder. command: it, once it
    trains.
    """

    run: RunFolder
    studies: Mapping[str, int]
    trials: Mapping[str, Sequence[FrozenTrial]]
    plans: Mapping[str, Mapping[str, int]]
    at_work: bool
    command: Command | None = None

    @cached_property
    def plan(self) -> Plan:
        """The signals."""
        return plan_of(self.run.config)

    @cached_property
    def records(self) -> Mapping[str, Sequence[Record]]:
        """The finished trainings of each signal that has a study."""
        return {signal: finished(found) for signal, found in self.trials.items() if signal != LATENCY}

    def of(self, signal: str) -> Sequence[Record]:
        """Return the finished trainings of a signal."""
        return self.records.get(signal, ())

    @cached_property
    def open_trainings(self) -> int:
        """How many are begun and not finished."""
        return running(self.trials)

    @cached_property
    def sample(self) -> list[str]:
        """The architectures of the uniform sample that are found so far, by the lead signal."""
        lead = self.of(self.plan.lead) if self.plan.lead is not None else ()
        found = [r.key for r in lead if r.complete and r.draw == 0 and r.phase == "sample"]
        return found[: self.run.config.sample]

    @cached_property
    def pick(self) -> str | None:
        """The architecture that the search hands out; None before its full trainings, and in older folders."""
        order = read_order(self.run.path)
        return order[0].key if order and order[0].validation is not None else None

    @cached_property
    def computed(self) -> Mapping[str, Sequence[str | None]]:
        """The reason of failure, or None, of each score of the sample that is computed, by signal.

        What is looked up in a table of the user's is there from the beginning.
        """
        kept, sample = ScoreFile(self.run.path), set(self.sample)
        computed = [signal for signal in self.plan.computed if not is_looked_up(signal)]
        found = {signal.name: _kept(kept, signal).values() for signal in computed}
        # Where nothing is trained, those of the sample come first; an earlier comparison may have had a larger one.
        of = {name: [s for s in scores if not sample or s.key in sample] for name, scores in found.items()}
        size = self.run.config.sample
        tables = {signal.name: [None] * size for signal in self.plan.computed if is_looked_up(signal)}
        return tables | {name: [score.reason for score in scores][:size] for name, scores in of.items()}


def _kept(kept: ScoreFile, signal: Signal) -> Mapping[str, KeptScore]:
    """Return the scores by a signal; those by a function whose file is not here any more as they were last computed."""
    try:
        return kept.of(score_name(signal))
    except OSError:
        return kept.last_of(signal.name)


def study_names(run: RunFolder, place: Location) -> dict[str, str]:
    """Return the names in the storage of the studies that there are or will be, by signal, in the table's order."""
    plan = plan_of(run.config)
    names = {signal.name: study_of(plan, signal) for signal in plan.trained} | {TRUTH: TRUTH, LATENCY: LATENCY}
    return {signal: study_name(place, name) for signal, name in names.items()}


def running(trials: Mapping[str, Sequence[FrozenTrial]]) -> int:
    """Return how many trials are begun and not finished."""
    return sum(trial.state == TrialState.RUNNING for found in trials.values() for trial in found)
