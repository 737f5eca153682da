"""Ground truth and controls: what the proxy's ranking is compared with.

Truth is full training of the sample and of the search's best, with two seeds, scored on test; or the published
accuracies of a table, and then nothing is trained for it, and its cost is not known. The controls cost
as many image passes as a proxy training: *random* real images (three draws), and all images for a short time
(*early_stop*). This is the only module that opens the test images; a final network is scored on them here, and
only its accuracy leaves.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import held_out_test, random_subset
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.session import Session
from nas_proxy.ranking.scores import best_first, column
from nas_proxy.search.candidates import sampled
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Fitted, Outcome, Recipe, accuracy

SEEDS = 2
DRAWS = 3
BEST = 3
RANDOM = "random"  # before the draw, in the name of a set of random images


@dataclass(frozen=True)
class Truth:
    """Accuracies of full training, however they came about.

    scores: fractions; index: the architecture's key; a column a seed; NaN where a training failed.
    records: what else is known of each architecture; of each training where it was trained here.
    trained: whether it was trained here, and its cost is in the records.
    """

    scores: pd.DataFrame
    records: Sequence[Record]
    trained: bool

    @property
    def seeds(self) -> int:
        """The number of full trainings of an architecture."""
        return self.scores.shape[1]


def by_draw(records: Iterable[Record], draws: int, by: str = "accuracy") -> pd.DataFrame:
    """Return the scores `by` with a row a key and a column a draw; NaN where a training failed or is missing."""
    known = list(records)
    rows = [(r.key, r.draw, value) for r, value in zip(known, column(known, by), strict=True)]
    frame = pd.DataFrame(rows, columns=["key", "draw", "score"])
    table = frame.pivot_table(index="key", columns="draw", values="score", dropna=False, aggfunc="first")
    return table.reindex(columns=range(draws)).astype(float)


def truth_of(session: Session) -> Truth | None:
    """Return the ground truth; with a table, of every architecture trained on the proxy. None before there is any."""
    table = session.truth_table
    if table is None:
        records = session.ledger.records("truth")
        return Truth(by_draw(records, SEEDS), records, trained=True) if records else None
    known = [r for r in session.ledger.records("proxy") if r.complete]
    return Truth(table.scores.loc[[r.key for r in known]], known, trained=False) if known else None


def the_sample(session: Session) -> list[Record]:
    """Return the proxy's records of the uniform sample. Raises RunFolderError before the search is done."""
    session.proxy_path  # noqa: B018 (checks that the scores belong to this proxy and space)
    found = sampled(session, session.ledger.records("proxy"))
    exhausted = session.space.size is not None and len(found) >= session.space.size
    if not found or (len(found) < session.config.truth and not exhausted and not _all_tried(session)):
        raise RunFolderError(
            f"only {len(found)} of the {session.config.truth} sampled architectures are trained on the proxy; "
            f"first run: nas-proxy search {session.run.path}"
        )
    return found


def _all_tried(session: Session) -> bool:
    known = {r.key for r in session.ledger.records("proxy")}
    return all(session.space.key(a) in known for a in session.stream())


def train_truth(session: Session) -> None:
    """Train the sample and the search's best three as `train_fully` does."""
    sample = the_sample(session)
    keys = {r.key for r in sample}
    records = session.ledger.records("proxy")
    train_fully(session, sample + [r for r in best_first(records, session.config.score)[:BEST] if r.key not in keys])


def train_fully(session: Session, chosen: Sequence[Record | Candidate]) -> None:
    """Train architectures on all training images, with two seeds, and score them on test."""
    evaluation: Callable[[], Path] = functools.cache(lambda: image_file(session, "test"))
    train_draws(
        session,
        "Ground truth",
        "truth",
        chosen,
        range(SEEDS),
        lambda _: session.train_path,
        evaluation,
        session.config.full_training,
    )


def image_file(session: Session, name: str) -> Path:
    """Return the file of the images that a job calls "proxy", "train", "validation", "test" or "random<draw>"."""
    if name == "proxy":
        return session.run / "proxy.safetensors"
    if name.startswith(RANDOM):
        return session.file(name, lambda: random_set(session, int(name.removeprefix(RANDOM))))
    if name == "test":
        return session.file(name, lambda: _test_images(session))
    return {"train": lambda: session.train_path, "validation": lambda: session.validation_path}[name]()


def score_on_test(session: Session, final: Fitted) -> tuple[float | None, int]:
    """Return the accuracy of a trained network on the test images, None when it diverged, and their number."""
    test = _test_images(session)
    if not all(math.isfinite(loss) for loss in final.losses):
        return None, len(test)
    return accuracy(final.network, test.to(session.device)), len(test)


def _test_images(session: Session) -> ImageSet:
    return held_out_test(session.source, session.data, seed=session.config.seed, limit=session.config.limit)


def train_controls(session: Session) -> None:
    """Train the sample on random real images (three draws) and, for as many image passes, on all images."""
    sample = the_sample(session)
    config = session.config

    train_draws(
        session,
        "Control: random images",
        "random",
        sample,
        range(DRAWS),
        lambda draw: image_file(session, f"{RANDOM}{draw}"),
        lambda: session.validation_path,
        config.proxy_training,
        config.seeds,
    )
    train_draws(
        session,
        "Control: early stopping",
        "early_stop",
        sample,
        range(1),
        lambda _: session.train_path,
        lambda: session.validation_path,
        compressed(config.proxy_training, len(ImageSet.load(session.proxy_path).unpacked()), len(session.data.train)),
        config.seeds,
    )


def random_set(session: Session, draw: int) -> ImageSet:
    """Return as many random real images as the proxy has, packed as the proxy's are."""
    draws, recipe = torch_generator(session.config.seed, "random", draw), session.config.condense
    several = recipe.images_per_class * recipe.formation**2
    return random_subset(session.data.train, several, draws).packed(recipe.formation)


def compressed(recipe: Recipe, proxy_images: int, images: int) -> Recipe:
    """Return the recipe with its whole schedule in as many image passes on `images` as on `proxy_images`."""
    batch = recipe.batch(proxy_images)
    return replace(recipe, batch_size=batch, epochs=recipe.image_passes(proxy_images) / images)


def train_draws(
    session: Session,
    title: str,
    signal: str,
    records: Sequence[Record | Candidate],
    draws: range,
    data: Callable[[int], Path],
    evaluation: Callable[[], Path],
    recipe: Recipe,
    seeds: int = 1,
) -> None:
    """Train architectures in each of `draws`, on the images of `data`, but for what the study of `signal` holds."""
    finished = {(r.key, r.draw) for r in session.ledger.records(signal)}
    total = len(records) * len(draws)
    tasks = [
        (session.candidate(r.architecture, r.phase, r.index), draw)
        for draw in draws
        for r in records
        if (r.key, draw) not in finished
    ]
    with session.progress.stage(title, total) as bar:
        count = total - len(tasks)
        bar.to(count)

        def done(result: Outcome | Failure) -> None:
            nonlocal count
            del result
            count += 1
            bar.to(count)

        def job(candidate: Candidate, draw: int) -> Job:
            seed = derive(session.config.seed, signal, candidate.key, draw)
            return replace(session.job(candidate.architecture, data(draw), evaluation(), recipe, seed), seeds=seeds)

        session.train_all(signal, tasks, job, done)
