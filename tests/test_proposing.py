"""The window of proposals: what each is made from, that workers wait for nothing else, and what does not grow."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.data.images import DataShape
from nas_proxy.progress import shown
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.measured import Latency
from nas_proxy.storage.records import Record
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy import proposing, samplers
from nas_proxy.strategy.candidates import Search, Stream
from nas_proxy.strategy.proposing import Curves, Fruitless, batches, workers_left_idle
from nas_proxy.strategy.samplers import SAMPLERS, Proposer
from nas_proxy.strategy.search import search
from nas_proxy.strategy.studies import Elite, Results, Youngest
from nas_proxy.strategy.trainer import Images, Trainer
from nas_proxy.training.executor import InlineExecutor, Jobs, run_all
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome, Recipe

SHAPE = DataShape(1, 2, 2, 3)
# All samplers, of which one is enough for every day.
ONE_QUICK = [pytest.param(name, marks=[] if name == "evolution" else pytest.mark.slow) for name in SAMPLERS]


def build(architecture, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, shape.classes))


SPACE = Space("cube", Choice("a", range(10)) & Choice("b", range(10)) & Choice("c", range(10)), build)
SIZES = Sizes(SPACE, SHAPE)  # each architecture is measured once, for all tests


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


class Workers(InlineExecutor):
    """Some workers whose trainings end in a random order, but for those numbers that last until no other is left."""

    def __init__(self, count: int, seed: int = 0, slow: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.count, self.most = count, 0
        self._draw, self._slow = random.Random(seed), slow
        self._at_work: list[tuple[int, Any, Any]] = []
        self.begun: list[dict[str, Any]] = []

    @property
    def free(self) -> int:
        return self.count - len(self._at_work)

    def submit(self, tag: object, job: Any) -> None:
        self._at_work.append((len(self.begun), tag, job))
        self.begun.append(dict(job.architecture))
        self.most = max(self.most, len(self._at_work))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        quick = [one for one in self._at_work if one[0] not in self._slow] or self._at_work
        self._at_work.remove(ended := self._draw.choice(quick))
        _, tag, job = ended
        values = job.architecture
        if values["a"] == values["b"] == 3:
            yield tag, Failure("threes fail")
        else:
            yield tag, Outcome(sum(values.values()) / 30, (1.0 + values["c"], 0.5), False, 1.0, 2)

    def run(self, jobs: Jobs[Any, Any]) -> Iterator[tuple[Any, Any]]:
        return run_all(self, jobs)


@dataclass
class Said:
    lines: list[str] = field(default_factory=list)

    def stage(self, title: str, total: int):
        return shown(progress=False).stage(title, total)

    def say(self, text: str) -> None:
        self.lines.append(text)


def trainer_of(folder: Path, executor: Workers, latencies: Any = None) -> Trainer:
    folder.mkdir(exist_ok=True)
    store = TrialStore(folder / "study.db")
    store.close_interrupted()
    return Trainer(store, executor, SPACE, "cube.py", "cpu", 0, SIZES, Said(), latencies=latencies)


def wanted_of(**changes: Any) -> Search:
    nowhere = Path("nowhere")
    images = Images(lambda _: nowhere, lambda: nowhere)
    base = Search("proxy", Stream(SPACE, 0), 6, images, Recipe(epochs=2), proposals=24, sampler="tpe", round=4)
    return replace(base, **changes)


def proposed(trainer: Trainer) -> list[tuple[int, str, str | None, str | None]]:
    records = trainer.store.records("proxy")
    return [(r.index, r.key, r.why, r.reason) for r in records if r.phase == "search"]


def searched(folder: Path, executor: Workers, **changes: Any) -> list[tuple[int, str, str | None, str | None]]:
    trainer = trainer_of(folder, executor)
    search(trainer, wanted_of(**changes))
    trainer.store.close()
    return proposed(trainer_of(folder, executor))


def test_what_a_proposal_waits_for():
    wanted = wanted_of(proposals=7, round=3)
    assert [batch.after for batch in batches(wanted)] == [0, 0, 0, 1, 2, 3, 4]
    assert [list(batch.numbers) for batch in batches(wanted)] == [[n] for n in range(7)]
    assert [(batch.numbers, batch.after) for batch in batches(wanted, together=True)] == [
        (range(3), 0),
        (range(3, 6), 3),
        (range(6, 7), 6),
    ]
    pool = replace(wanted, propose=lambda history, turn, size: [], opening=2, enqueued=[{"a": 1, "b": 1, "c": 1}])
    assert [batch.numbers for batch in batches(pool)] == [range(1), range(1, 3), range(3, 6), range(6, 7)]


@pytest.mark.parametrize("sampler", ONE_QUICK)
def test_workers_and_the_order_in_which_they_finish_change_no_proposal(tmp_path, sampler):
    alone = searched(tmp_path / "alone", Workers(1), sampler=sampler)
    assert [number for number, *_ in alone] == list(range(24))
    assert len({key for _, key, *_ in alone}) == 24
    for seed in range(3):
        several = Workers(4 if seed else 9, seed, slow=frozenset({8, 9}))
        assert searched(tmp_path / f"several {seed}", several, sampler=sampler) == alone


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ONE_QUICK)
def test_a_kill_with_trainings_under_way_changes_no_proposal(tmp_path, sampler, monkeypatch):
    enqueued = [{"a": 9, "b": 0, "c": 9}, {"a": 3, "b": 3, "c": 1}]
    how = {"sampler": sampler, "enqueued": enqueued}
    whole = searched(tmp_path / "whole", Workers(1), **how)
    assert [why for *_, why, _ in whole[:3]] == ["enqueued", "enqueued", sampler]
    assert whole[1][3] == "threes fail"
    finish, count = TrialStore.finish, 0

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count in {4, 11, 14, 23}:
            raise KeyboardInterrupt
        return finish(self, *arguments)

    monkeypatch.setattr(TrialStore, "finish", dying)
    for seed in range(4):
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "cut", Workers(4, seed), **how)
    assert searched(tmp_path / "cut", Workers(3, 5), **how) == whole


def test_a_long_training_holds_up_only_what_is_a_window_behind(tmp_path):
    # The first proposal (number 6 of all) lasts; in rounds the other workers would wait for it after three more.
    workers = Workers(4, slow=frozenset({6}))
    trainer = trainer_of(tmp_path, workers)
    search(trainer, wanted_of(round=12))
    assert workers.most == 4
    trials = trainer.store.study("proxy").trials
    ended = [t.user_attrs["index"] for t in sorted(trials, key=lambda t: t.datetime_complete)]
    assert len(ended) == 30
    assert ended[6:].index(0) == 11  # the twelve of a window are trained, and the thirteenth waits


def test_a_window_of_one_sees_everything_before_it(tmp_path):
    keys = [key for _, key, *_ in searched(tmp_path / "run", Workers(4), round=1)]
    trainer = trainer_of(tmp_path / "run", Workers(1))
    proposer = Proposer(SPACE, 0, "tpe")
    records = trainer.store.records("proxy")
    for record in records[:6]:
        proposer.learn(record)
    for number, record in enumerate(records[6:]):
        assert SPACE.key(proposer.propose(number).architecture) == keys[number]
        proposer.learn(record)


def test_nothing_trains_while_a_latency_is_measured(tmp_path):
    workers = Workers(4)

    class Timer:
        tell = None

        def of(self, architecture):
            assert workers.free == 4
            return Latency(1.0, 0.9, 1.1, 5)

        def failure(self, architecture):
            return None

    search(trainer_of(tmp_path, workers, Timer()), wanted_of())
    assert len(workers.begun) == 30


def test_the_search_ends_with_the_space(tmp_path):
    trainer = trainer_of(tmp_path, Workers(4))
    small = Space("small", Choice("a", range(3)) & Choice("b", range(2)) & Choice("c", (1,)), build)
    trainer = replace(trainer, space=small)
    search(trainer, wanted_of(stream=Stream(small, 0), sample=2))
    assert len(trainer.store.records("proxy")) == 6
    assert trainer.progress.lines == ["Every architecture of the space has been trained; the search ends here."]


def test_workers_that_a_round_leaves_idle_are_told(tmp_path):
    trainer = trainer_of(tmp_path, Workers(100))
    sentence = workers_left_idle(trainer, wanted_of(proposals=5000))
    assert sentence == (
        "100 trainings could run at a time, but only 4 proposals are under way (--round 4); --round 800 keeps most "
        "busy, each proposed without the results of the 799 before."
    )
    assert "--round 24 keeps" in workers_left_idle(trainer, wanted_of())
    assert workers_left_idle(trainer, wanted_of(round=100, proposals=5000)) is None
    assert workers_left_idle(trainer, wanted_of(proposals=4)) is None
    of_pool = wanted_of(propose=lambda history, turn, size: [])
    assert workers_left_idle(trainer, of_pool).endswith(
        "--round 100 gives all of them work, and lets them wait for the last of a round."
    )
    search(trainer, wanted_of())
    assert trainer.progress.lines == [workers_left_idle(trainer, wanted_of())]
    search(trainer, wanted_of())
    assert len(trainer.progress.lines) == 1


def record(index: int, architecture: dict[str, int], **more: Any) -> Record:
    score = sum(architecture.values()) / 30 if "reason" not in more else None
    facts = {"score": score, "loss_sum": None if score is None else 3 - score, **more}
    return Record(SPACE.key(architecture), architecture, "search", index, 0, 10 + architecture["a"], 5, **facts)


def history(count: int) -> list[Record]:
    made = []
    for index, architecture in zip(range(count), SPACE.sample(3), strict=False):
        more: dict[str, Any] = {}
        if index % 7 == 3:
            more = {"reason": "failed"} if index % 2 else {"reason": "pruned", "pruned_at": 1, "curve": ((1, 0.5),)}
        elif index % 11 == 5:
            more = {"loss_sum": None, "diverged": True}
        made.append(record(index, architecture, **more))
    return made


@pytest.mark.parametrize("score", ["accuracy", "loss_sum"])
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "params")])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_proposer_that_goes_on_is_as_one_made_anew(sampler, objectives, score, monkeypatch):
    if sampler == "evolution" and len(objectives) > 1:
        return
    monkeypatch.setattr(samplers, "LONG", 40)
    monkeypatch.setattr(samplers, "LONG_POPULATION", 12)
    monkeypatch.setattr(samplers, "LONG_TOURNAMENT", 4)
    # Nothing is pruned where there are several objectives.
    records = [one for one in history(75) if len(objectives) == 1 or one.pruned_at is None]
    kept = Proposer(SPACE, 0, sampler, score=score, objectives=objectives)
    reasons = set()
    for number, one in enumerate(records):
        kept.learn(one)
        if number % 6 == 5:
            anew = Proposer(SPACE, 0, sampler, score=score, objectives=objectives)
            for earlier in records[: number + 1]:
                anew.learn(earlier)
            anew.seen.update(kept.seen)
            proposal = kept.propose(number)
            assert anew.propose(number) == proposal
            reasons.add(proposal.why)
    assert reasons == ({"tpe", kept.successor} if sampler == "tpe" else {sampler})


@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "params")])
def test_after_many_architectures_tpe_makes_room_and_says_so(tmp_path, objectives, monkeypatch):
    monkeypatch.setattr(samplers, "LONG", 18)
    monkeypatch.setattr(proposing, "LONG", 18)
    monkeypatch.setattr(samplers, "LONG_POPULATION", 8)
    trainer = trainer_of(tmp_path, Workers(2))
    search(trainer, wanted_of(objectives=objectives))
    successor = "evolution" if len(objectives) == 1 else "nsga2"
    assert [why for *_, why, _ in proposed(trainer)] == ["tpe"] * 12 + [successor] * 12
    assert trainer.progress.lines == [
        f"From 18 architectures on {successor} proposes in place of tpe, whose proposals take longer with every result."
    ]


def test_what_samplers_look_at_does_not_grow():
    records = history(400)
    everything = Results(SPACE, "accuracy", ("accuracy",))
    youngest, elite = Youngest(SPACE, "accuracy", ("accuracy",), 10), Elite(SPACE, "accuracy", ("accuracy",), 12)
    complete: list[Record] = []
    for one in records:
        complete += [one] if one.complete else []
        for held in (everything, youngest, elite):
            held.learn(one)
        assert len(youngest.held) < 20
        assert youngest.held == complete[len(complete) - len(youngest.held) :]
        assert len(youngest.held) >= min(10, len(complete))
        assert len(elite.held) <= 24
    assert len(everything.held) == sum(r.complete or r.pruned_at is not None for r in records)
    # NSGA-II's elitism with one objective: the best of all whole generations but the last are parents of that.
    last = len(complete) // 12 * 12 - 12
    best = sorted((r.score for r in complete[:last]), reverse=True)[:12]
    assert sorted((r.score for r in elite.held[12:]), reverse=True) == pytest.approx(best)
    assert elite.held[:12] == complete[last : last + 12]


def test_a_diverged_training_stays_below_all_others_by_its_losses():
    results = Results(SPACE, "loss_sum", ("accuracy",))
    sampler = optuna.samplers.RandomSampler()
    architectures = [{"a": n, "b": 0, "c": 0} for n in range(3)]
    results.learn(record(0, architectures[0], loss_sum=2.0))
    results.learn(record(1, architectures[1], loss_sum=None))
    assert results.study(sampler).trials[1].value < -2.0
    results.learn(record(2, architectures[2], loss_sum=9.0))
    assert [t.value for t in results.study(sampler).trials][::2] == [-2.0, -9.0]
    assert results.study(sampler).trials[1].value < -9.0


def test_curves_are_the_latest_and_numbers_go_on(monkeypatch):
    monkeypatch.setattr(proposing, "CURVES", 10)
    curves, lengths = Curves("accuracy"), []
    for index in range(100):
        curves.learn(record(index, {"a": 0, "b": 0, "c": 0}, score=index / 100, curve=((1, index / 100),)))
        lengths.append(len(curves.latest))
        assert curves.latest[-1].score == index / 100
    assert lengths[:20] == list(range(1, 21))
    assert set(lengths[20:]) == set(range(11, 21))
    # What is not looked at leaves no curve.
    before = curves.latest
    curves.learn(record(100, {"a": 0, "b": 0, "c": 0}))
    assert curves.latest is before


def test_fruitless_by_losses_takes_no_diverged_training_for_a_better_one():
    count = Fruitless("loss_sum")
    for index, loss in enumerate((None, 3.0, None, 4.0, 2.0)):
        count.learn(record(index, {"a": index, "b": 0, "c": 0}, loss_sum=loss))
        assert count.since == [0, 0, 1, 2, 0][index]
