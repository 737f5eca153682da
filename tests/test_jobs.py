"""Jobs in a PostgreSQL database: who takes what, what becomes of the jobs of the dead, and one result each."""

import threading
import time

import pytest
from sqlalchemy import create_engine, select

from nas_proxy.storage import job_queue as module
from nas_proxy.storage.job_queue import ATTEMPTS, Jobs, Offer, Taken
from nas_proxy.storage.location import Database
from nas_proxy.storage.retry import open_storage
from nas_proxy.storage.tables import JOBS

pytestmark = pytest.mark.database


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.url()


@pytest.fixture
def make(url, request):
    """Make workers of a run of this test's own."""
    storage = open_storage(Database(url, "any"), module.Retry())
    storage.engine.dispose()
    made = []

    def one(*, join: bool = True, coordinates: bool = False) -> Jobs:
        engine = create_engine(url)
        made.append(engine)
        found = Jobs(engine, request.node.name)
        if join:
            found.join("cpu", coordinates=coordinates)
        return found

    yield one
    for engine in made:
        engine.dispose()


def offers(count: int, signal: str = "proxy") -> list[Offer]:
    return [Offer(signal, f"key{n}", n % 2, {"seed": n}) for n in range(count)]


def die(jobs: Jobs) -> None:
    """Let a worker's heart stop, as a kill does."""
    jobs._stop.set()
    jobs._heart.join()


def test_each_job_is_taken_once_by_many_at_once(make):
    workers = [make() for _ in range(8)]
    workers[0].offer(offers(60))
    workers[0].offer(offers(60))  # again: those that wait are withdrawn and offered anew
    taken: list[list[Offer]] = [[] for _ in workers]

    def take(number: int) -> None:
        while claims := workers[number].claim(2, [offer.identity for offer in taken[number]]):
            taken[number] += claims

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [offer.identity for each in taken for offer in each]
    assert len(found) == len(set(found)) == 60
    for worker in workers:
        worker.leave()


def test_a_job_goes_from_hand_to_hand(make):
    ours, theirs = make(coordinates=True), make()
    ours.offer(offers(3))
    assert [offer.key for offer in theirs.claim(2)] == ["key0", "key1"]
    assert theirs.claim(0, [("proxy", "key0", 0), ("proxy", "key1", 1)]) == []
    first = offers(1)[0]
    theirs.finish(first, {"score": 0.5})
    assert sorted(ours.taken("proxy"), key=lambda t: t.key) == [
        Taken("key0", 0, {"score": 0.5}),
        Taken("key1", 1, None),
    ]
    assert ours.taken("truth") == []
    ours.recorded("proxy", "key0", 0)
    assert [taken.key for taken in ours.taken("proxy")] == ["key1"]
    ours.offer(offers(3))  # what is recorded or taken is not offered again
    assert [offer.key for offer in ours.claim(5)] == ["key2"]
    assert [(w.coordinates, w.jobs) for w in ours.alive()] == [(True, 1), (False, 1)]
    theirs.leave()
    assert [offer.key for offer in ours.claim(1, [("proxy", "key2", 0)])] == ["key1"]
    ours.leave()
    assert ours.alive() == []


def test_the_first_result_counts(make):
    ours, theirs = make(), make()
    ours.offer(offers(1))
    (offer,) = theirs.claim(1)
    theirs.finish(offer, {"score": 0.5})
    ours.finish(offer, {"score": 0.6})
    theirs.finish(offer, {"score": 0.7})  # as after an answer that was lost with the connection
    assert ours.taken("proxy") == [Taken("key0", 0, {"score": 0.5})]
    ours.recorded("proxy", "key0", 0)
    theirs.finish(offer, {"score": 0.8})
    assert ours.taken("proxy") == []


def test_a_claim_whose_answer_was_lost_is_not(make):
    ours = make()
    ours.offer(offers(2))
    ours.claim(1)
    assert [offer.key for offer in ours.claim(0)] == ["key0"]


@pytest.mark.slow
def test_the_jobs_of_the_dead_are_taken_over(make, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 1.0)
    monkeypatch.setattr(module, "BEAT", 0.1)
    ours = make()
    ours.offer(offers(1))
    for attempt in range(ATTEMPTS):
        theirs = make()
        assert [offer.key for offer in theirs.claim(1)] == ["key0"], attempt
        assert ours.claim(1) == []
        time.sleep(1.2)
        assert ours.claim(1) == []  # its heart beats
        die(theirs)
        assert ours.claim(1) == []
        time.sleep(1.2)
    assert ours.claim(1) == []  # it kills whoever takes it
    assert ours.taken("proxy") == [Taken("key0", 0, {"reason": "3 workers died while they trained it"})]
    ours.leave()


def test_a_coordinator_that_was_killed_here_is_forgotten(make):
    before = make(coordinates=True)
    before.offer(offers(1))
    before.claim(1)
    die(before)
    now = make(join=False)
    assert [worker.coordinates for worker in now.alive()] == [True]
    now.forget_coordinator()
    assert now.alive() == []
    assert [offer.key for offer in now.claim(1)] == ["key0"]  # at once


def test_giving_back_is_no_attempt(make, url):
    ours = make()
    ours.offer(offers(1))
    ours.claim(1)
    ours.leave()
    engine = create_engine(url)
    with engine.connect() as connection:
        mine = select(JOBS.c.state, JOBS.c.attempts).where(JOBS.c.run == ours._run)
        assert connection.execute(mine).all() == [("waiting", 0)]
    engine.dispose()


@pytest.mark.slow
def test_a_restart_is_no_death(make, monkeypatch, postgres):
    monkeypatch.setattr(module, "GRACE", 3.0)
    ours, theirs = make(), make()
    ours.offer(offers(1))
    theirs.claim(1)
    die(theirs)
    postgres.stop()
    time.sleep(3.5)
    postgres.start()
    assert ours.claim(1) == []  # nobody's heart could be heard meanwhile
    time.sleep(3.5)
    assert [offer.key for offer in ours.claim(1)] == ["key0"]
    ours.leave()
