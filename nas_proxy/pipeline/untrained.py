"""Scores without training, of any architectures: computed by worker processes, each once, and kept as they come.

In: a command at work, its computed signals and architectures. Out: a `Column` of scores for each signal. Guarantees:
cheap signals come first; a score that is kept is not computed again, so a kill costs one; a rank among architectures,
as AZ-NAS is, is made anew of what is kept for whichever architectures are asked for.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping, Sequence

from nas_proxy.names import SIZES
from nas_proxy.pipeline.work import Work
from nas_proxy.signals import az_nas, own
from nas_proxy.signals.computed import Column
from nas_proxy.signals.score_file import KeptScore, ScoreFile
from nas_proxy.signals.score_job import AZ_NAS, Scored, ScoreJob
from nas_proxy.signals.signal import OwnScore, Signal
from nas_proxy.signals.stored_names import is_looked_up, score_name
from nas_proxy.signals.zero_cost import IMAGES, NEED_IMAGES, Score
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.jobs import Failure

# In the order of what they cost, as far as that is known before they are computed.
CHEAP_FIRST = (*SIZES, "synflow", "naswot", "jacob_cov", AZ_NAS)
# How long a score may take where the run sets candidates no limit; it takes a few passes.
SCORE_MINUTES = 10.0


def opened(work: Work) -> ScoreFile:
    """Return the scores that the folder keeps of this data and space."""
    data, space = work.problem.data.fingerprint, work.problem.digest
    return ScoreFile(work.run.path, {"data": data, "space": space})


def columns_of(work: Work, signals: Sequence[Signal], chosen: Mapping[str, Architecture]) -> dict[str, Column]:
    """Return the scores of the architectures `chosen` by each of the signals, computed where they are not kept.

    chosen: by key; the scores come in its order.
    """
    kept = opened(work)
    for signal in in_order(signals, kept):
        if not is_looked_up(signal):
            _complete(work, signal, chosen, kept)
    return {signal.name: _column(work, signal, list(chosen), kept) for signal in signals}


def so_far(work: Work, keys: Sequence[str]) -> dict[str, list[float]]:
    """Return the scores of the computed signals that are kept, NaN for what is not computed yet."""
    kept = opened(work)
    return {signal.name: _column(work, signal, keys, kept).values for signal in work.plan.computed}


def in_order(signals: Sequence[Signal], kept: ScoreFile) -> list[Signal]:
    """Return the signals, the cheapest first: by what they took, and where that is not known, as is usual."""

    def cost(signal: Signal) -> tuple[float, int]:
        usual = CHEAP_FIRST.index(signal.name) if signal.name in CHEAP_FIRST else len(CHEAP_FIRST)
        return typical_seconds(signal, kept), usual

    return sorted(signals, key=cost)


def typical_seconds(signal: Signal, kept: ScoreFile) -> float:
    """Return the median of what scores took, of those that are kept; 0 where there are none.

    The first of each worker loads what it takes.
    """
    known = [score.seconds for score in kept.of(score_name(signal)).values() if score.value is not None]
    return statistics.median(known) if known else 0.0


def seconds_of(signals: Sequence[Signal], kept: ScoreFile) -> float:
    """Return what all scores took that are kept."""
    return sum(score.seconds for signal in signals for score in kept.of(score_name(signal)).values())


def _complete(work: Work, signal: Signal, chosen: Mapping[str, Architecture], kept: ScoreFile) -> None:
    """Compute the scores that are missing."""
    stored = score_name(signal)
    there = kept.of(stored)
    missing = [key for key in chosen if key not in there or _lacks_traits(signal, there[key])]
    if not missing:
        return
    named, file = signal.name, None
    if isinstance(signal.source, OwnScore):
        named, file = signal.source.named, own.place_of(signal.source.named)[0]
    device = "cpu" if signal.name in SIZES else work.problem.device
    images, spec, minutes = work.files.train(), work.trainer.spec, work.config.candidate_minutes or SCORE_MINUTES
    job = functools.partial(ScoreJob, data=images, seed=work.config.seed, device=device, minutes=minutes)
    code = stored.partition("#")[2]
    jobs = ((key, job(named, spec, dict(chosen[key]), file=file, code=code)) for key in missing)
    with work.progress.stage(f"Score: {signal.name}", len(chosen)) as bar:
        done = len(chosen) - len(missing)
        bar.to(done)
        for key, result in work.executor.run(jobs):
            found = Scored(Score(math.nan, result.seconds, result.reason)) if isinstance(result, Failure) else result
            score = found.score
            value = None if score.reason is not None else score.value
            kept.add(KeptScore(stored, key, value, round(score.seconds, 5), score.reason, found.traits))
            done += 1
            bar.to(done)


def _lacks_traits(signal: Signal, score: KeptScore) -> bool:
    return signal.name == AZ_NAS and score.reason is None and not score.traits


def _column(work: Work, signal: Signal, keys: Sequence[str], kept: ScoreFile) -> Column:
    if isinstance(signal.source, OwnScore) and is_looked_up(signal):
        table = own.looked_up(signal.source.named)
        lacking = "the table has no number for it"
        return Column(tuple(Score(table.get(k, math.nan), 0.0, None if k in table else lacking) for k in keys))
    there = kept.of(score_name(signal))
    scores = [_score(there.get(key)) for key in keys]
    if signal.name == AZ_NAS:
        known = [i for i, key in enumerate(keys) if key in there and there[key].traits]
        ranks = az_nas.assembled([there[keys[i]].traits for i in known]) if known else []
        for i, value in zip(known, ranks, strict=True):
            scores[i] = dataclasses.replace(scores[i], value=value)
    sees = signal.name in NEED_IMAGES or isinstance(signal.source, OwnScore)
    images = min(len(work.problem.data.train), IMAGES) if sees else 0
    return Column(tuple(scores), images, signal.name == AZ_NAS)


def _score(kept: KeptScore | None) -> Score:
    if kept is None:
        return Score(math.nan, 0.0, "it is not computed yet")
    return Score(math.nan if kept.value is None else kept.value, kept.seconds, kept.reason)
