"""The settings of a run or of a comparison: typed, complete, written to and read from TOML.

What a setting may be, and what it is for in a line, stands at its field. How defaults, a file and options meet:
`nas_proxy.runs.resolving`. What makes two runs the same: `nas_proxy.runs.identity`.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.files import write_text
from nas_proxy.names import EARLY_STOP, PROXY, ZERO_COST
from nas_proxy.runs import settings_checks
from nas_proxy.runs.comparison_checks import LEAST
from nas_proxy.runs.nested import listed, without_none
from nas_proxy.spaces.objectives import ACCURACY, OBJECTIVES
from nas_proxy.training.recipe import Recipe
from nas_proxy.validation import Text, list_of, one_of, strings

RUN_FILE, COMPARISON_FILE = "run.toml", "compare.toml"

Device = Annotated[str, AfterValidator(settings_checks.device)]
Url = Annotated[str, AfterValidator(settings_checks.storage)]


@dataclass(frozen=True)
class Comparison:
    """What a comparison compares, and how.

    signals: names, see `nas_proxy.signals.signal`; complete, with the baselines. combine: rows whose mean rank is one
        more. score: rows by "accuracy", by "loss_sum" or "both". draws: sets of each kind.
    passes: image passes of a training on a set; None for what the recipe's epochs take.
    candidates: how many share the cost of making a set; None for the sample. calibrate: None to fit it on all of the
        sample, each part predicted from the others.
    """

    signals: Annotated[
        tuple[str, ...],
        strings("names of signals"),
        Field(
            description="Signals, with commas between: dm, dm+space, dm+formation, dm+all (and combinations), random, "
            f"herding, kcenter, patches (real images take +formation), early_stop, {', '.join(ZERO_COST)}, "
            f"table:FILE:COLUMN or FILE.py:FUNCTION; default dm,random,herding,early_stop,{','.join(ZERO_COST)}."
        ),
    ]
    combine: Annotated[
        tuple[str, ...],
        strings("names of rows"),
        Field(description="Add the mean rank of several rows, with commas between."),
    ] = ()
    score: Annotated[
        str, one_of("both", "accuracy", "loss_sum"), Field(description="Rows by accuracy, by loss_sum, or both.")
    ] = "both"
    draws: Annotated[int, Field(ge=1, description="Sets of each kind: seeds of dm, draws of random images.")] = 3
    passes: Annotated[int | None, Field(ge=1, description="Image passes of a training, in place of --epochs.")] = None
    candidates: Annotated[
        int | None, Field(ge=1, description="Candidates that share the making of a set; the sample.")
    ] = None
    calibrate: Annotated[
        int | None,
        Field(ge=1, description="Fit the calibrated ranking on so many of the sample and judge all on the rest."),
    ] = None


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run or a comparison depends on; what each is for in a line stands at the field.

    dataset, space: see `nas_proxy.data.sources` and `nas_proxy.spaces.loading`; a space can be a Python file, and
        allow_pickle lets a truth table run code: whoever repeats somebody else's settings should look at them.
    trials, truth, judge: in a comparison all architectures are in the sample, so that they are the same. judge: None
        for two thirds of `truth`. truth_seeds: None for 2, or with a budget 1 where few judge. pool: None for
        1,000, or 100 where latencies are measured. round: None for 4, or the workers that the settings name where these
        are more; never by what a machine has, on which no score may depend.
    budget: see `nas_proxy.pipeline.budget`; what it leaves room for then stands for steps, trials, truth,
        judge and truth_seeds.
    score: see `nas_proxy.ranking.scores`. seeds: of candidates and of the baselines. pruner: of
        `nas_proxy.training.pruning`. sampler, enqueue: of `nas_proxy.strategy`.
    truth_table: see `nas_proxy.ranking.truth_table`; None to train.
    max_params, max_flops, max_latency_ms: for the sample as well, see `nas_proxy.spaces.limits`.
    storage: without a password, see `nas_proxy.storage.location`; None for the file `study.db` in the run folder.
    devices: each with so many workers, 0 for 1 to 4; () for `device` alone, where "auto" is a GPU when there is one.
    ray, gpus_per_candidate: see `nas_proxy.training.ray_executor`; `workers` are then those of the whole cluster.
    candidate_minutes, candidate_memory (MB are 10⁶ bytes): who needs more on the proxy counts as failed, see
        `nas_proxy.training.memory_limit`. preview_every: 0 for no pictures.
    signals, combine: what the ranking of the proxy is compared with besides random images and early stopping.
    condense: recipe of the condensed set. proxy_training: of candidates on it, and of the baselines.
        full_training: of the ground truth.
    compare: what a comparison compares; None for a run.
    What is in NOT_IDENTITY may change between two commands in one folder.
    """

    dataset: Annotated[
        Text, Field(description="digits, cifar10, …, folder:DIR, npz:FILE, csv:FILE or hf:DIR; default digits.")
    ] = "digits"
    space: Annotated[Text, Field(description="A built-in space, or the path of a Python file; default convnet.")] = (
        "convnet"
    )
    seed: Annotated[int, Field(ge=0, le=2**62, description="All randomness derives from it.")] = 0
    trials: Annotated[int, Field(ge=1, description="Architectures trained on the proxy, the sample included; 48.")] = 48
    truth: Annotated[
        int,
        Field(
            ge=1,
            description="Architectures trained on all data: the uniform sample, the rest by choice; 36, or --trials "
            "where fewer.",
        ),
    ] = 36
    judge: Annotated[
        int | None,
        Field(ge=1, description="How many of --truth are drawn uniformly, to judge by; two thirds if not given."),
    ] = None
    truth_seeds: Annotated[
        int | None,
        Field(
            ge=1,
            le=10,
            description="Full trainings of each architecture that judges, and of the pick; 2, or 1 with --budget where "
            "fewer than eight judge.",
        ),
    ] = None
    pool: Annotated[
        int | None,
        Field(
            ge=1,
            description="Architectures among which the search chooses; 1,000 (100 where latencies are measured), at "
            "least as many as are trained, or all where there are fewer.",
        ),
    ] = None
    round: Annotated[
        int | None,
        Field(ge=1, le=65536, description="Trainings under way from the same results; 4, or --workers where more."),
    ] = None
    budget: Annotated[
        Text | None,
        AfterValidator(settings_checks.budget),
        Field(description="Time for everything, as 30m, 2h or 1h30m, in place of numbers; more of it goes on."),
    ] = None
    truth_table: Annotated[Text | None, Field(description="Published accuracies in place of full training.")] = None
    allow_pickle: Annotated[
        bool,
        Field(
            description="The truth table may be pickles, which can run any code: only for files of NATS-Bench that you "
            "trust."
        ),
    ] = False
    sampler: Annotated[
        str,
        one_of("ei", "tpe", "random", "grid", "nsga2", "evolution"),
        Field(
            description="What proposes trainings on the proxy: ei (expected improvement over the pool), tpe, random, "
            "grid, nsga2 or evolution; default ei."
        ),
    ] = "ei"
    score: Annotated[
        str,
        one_of("accuracy", "loss_sum"),
        Field(
            description="What ranks and picks candidates: accuracy or loss_sum (the training losses); default accuracy."
        ),
    ] = "accuracy"
    seeds: Annotated[int, Field(ge=1, le=100, description="Trainings a candidate; its score is their mean; 1.")] = 1
    pruner: Annotated[
        str,
        one_of("none", "median", "hyperband", "wilcoxon"),
        Field(description="End proposals early: none, median, hyperband or wilcoxon (across seeds); default none."),
    ] = "none"
    enqueue: Annotated[
        tuple[str, ...],
        strings("keys, or of architectures as JSON"),
        Field(description="Propose the architectures in this file first: a JSON list, or a key a line."),
    ] = ()
    patience: Annotated[
        int | None, Field(ge=1, description="End the search after so many proposals without a better one.")
    ] = None
    hours: Annotated[
        float | None, Field(gt=0, description="Propose no more after so long; the same command goes on.")
    ] = None
    objective: Annotated[
        tuple[str, ...],
        list_of(OBJECTIVES),
        AfterValidator(settings_checks.accuracy_first),
        Field(description="accuracy, or with params, flops or latency after it, and commas between; default accuracy."),
    ] = (ACCURACY,)
    max_params: Annotated[int | None, Field(ge=1, description="No architecture with more parameters.")] = None
    max_flops: Annotated[int | None, Field(ge=1, description="No architecture with more FLOPs an image.")] = None
    max_latency_ms: Annotated[
        float | None, Field(gt=0, description="No architecture that was measured to be slower.")
    ] = None
    latency_batch: Annotated[
        int, Field(ge=1, le=65536, description="Images in the forward pass whose latency is measured.")
    ] = 1
    storage: Annotated[
        Url | None,
        Field(description="PostgreSQL database of the studies; a file in RUN if not given."),
    ] = None
    limit: Annotated[int | None, Field(ge=3, description="At most so many images a class are used of the data.")] = None
    image_size: Annotated[
        int | None, Field(ge=4, le=1024, description="Resize images to a square of so many pixels.")
    ] = None
    device: Annotated[
        Device, Field(description="auto (a GPU where there is one), cpu, cuda or cuda:N; default auto.")
    ] = "auto"
    devices: Annotated[
        tuple[str, ...],
        BeforeValidator(settings_checks.devices),
        Field(
            description="Train on several: names such as cuda:0,cuda:1, each with --workers processes (1 to 4 if "
            "not given)."
        ),
    ] = ()
    workers: Annotated[
        int, Field(ge=0, le=1024, description="Processes that train; 0: one a core, or 1 to 4 on a GPU.")
    ] = 0
    ray: Annotated[
        Text,
        AfterValidator(settings_checks.ray),
        Field(description="Train on a Ray cluster: auto (RAY_ADDRESS, or this machine's), its HOST:PORT, or none."),
    ] = "none"
    gpus_per_candidate: Annotated[
        float | None,
        Field(gt=0, le=64, description="GPUs of the Ray cluster for each candidate, such as 0.25; 1 on a GPU."),
    ] = None
    candidate_minutes: Annotated[
        float | None,
        Field(
            gt=0,
            description="End a candidate that trains longer than this, or whose latency takes longer (1 if not given).",
        ),
    ] = None
    candidate_memory: Annotated[
        float | None, Field(gt=0, description="End a candidate that needs more memory than so many MB.")
    ] = None
    log: Annotated[
        str,
        one_of("none", "tensorboard", "mlflow"),
        Field(description="Log curves of all trainings for tensorboard or mlflow, into RUN."),
    ] = "none"
    preview_every: Annotated[int, Field(ge=0, description="Steps between pictures kept in RUN/previews.")] = 0
    classes_per_step: Annotated[
        int | None, Field(ge=1, description="Classes in memory at a time; as many as fit if not given.")
    ] = None
    signals: Annotated[
        tuple[str, ...],
        BeforeValidator(settings_checks.NamesAndOwn(ZERO_COST, "names", unique=True)),
        Field(
            description=f"Scores without training, of the pool too: {', '.join(ZERO_COST)}, table:FILE:COLUMN or "
            "FILE.py:FUNCTION, with commas between; default all of those named."
        ),
    ] = ZERO_COST
    combine: Annotated[
        tuple[str, ...],
        BeforeValidator(settings_checks.NamesAndOwn((PROXY, EARLY_STOP, *ZERO_COST), "names", unique=True)),
        BeforeValidator(settings_checks.one_draw),
        AfterValidator(settings_checks.several),
        Field(description="Add the mean rank of several: proxy, early_stop or computed ones, with commas between."),
    ] = ()
    condense: Condensation = field(default_factory=Condensation)
    proxy_training: Recipe = field(default_factory=lambda: Recipe(epochs=200))
    full_training: Recipe = field(default_factory=lambda: Recipe(epochs=50))
    compare: Comparison | None = None

    @property
    def sample(self) -> int:
        """How many architectures are drawn uniformly, to judge signals by."""
        if self.compare is not None:
            return self.truth
        return default_judge(self.truth) if self.judge is None else min(self.judge, self.truth)

    @property
    def seeds_of_truth(self) -> int:
        """How many full trainings each architecture that judges has, and the pick; what a search chooses has one."""
        few = self.budget is not None and self.sample < REPEATED
        return self.truth_seeds or (1 if few else TRUTH_SEEDS)

    @property
    def round_size(self) -> int:
        """How many trainings are under way at a time, chosen without knowing of each other."""
        return self.round or max(ROUND, self.workers * max(len(self.devices), 1), len(self.devices))

    @property
    def pool_size(self) -> int:
        """How many architectures are drawn uniformly into the pool at most: enough for all that is chosen of it."""
        timed = self.max_latency_ms is not None or "latency" in self.objective
        proposed = self.trials if self.sampler == "ei" else 0
        return self.pool or max(POOL_TIMED if timed else POOL, proposed, self.truth)

    @property
    def reach(self) -> dict[str, int | str]:
        """How far a run goes: what leaves more to be trained where it is larger."""
        numbers = {"trials": self.trials, "truth": self.truth, "judge": self.sample, "pool": self.pool_size}
        return {**numbers, "truth_seeds": self.seeds_of_truth, "budget": self.budget or ""}


# Seeds of full training of what judges where nothing is named.
TRUTH_SEEDS = 2
# Judges from which on a budget has further seeds: of fewer, how full training repeats itself is not known to within
# anything, and a short search has more of a third as many full trainings again.
REPEATED = 8
# Architectures of the pool where nothing is named; each latency takes a process of its own for a second or so.
POOL, POOL_TIMED = 1_000, 100
# Trainings under way from the same results: more keep more workers busy, fewer make a better informed search.
ROUND = 4


def default_judge(truth: int) -> int:
    """Return how many of so many full trainings are uniform where nobody says: two thirds, at least what ranks."""
    return min(truth, max(LEAST, round(2 * truth / 3)))


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return nested plain values, without those that are None (TOML has no null)."""
    values = dataclasses.asdict(config)
    if config.compare is None:
        values["judge"] = config.sample  # folders without it are of versions in which all of `truth` judged
    return without_none(values)


def settings_file(config: RunConfig) -> str:
    """Return the name of the file that holds the settings in the folder of a run, or of a comparison."""
    return RUN_FILE if config.compare is None else COMPARISON_FILE


def write_config(config: RunConfig, path: Path) -> None:
    """Write the settings as TOML, atomically."""
    again = "# Repeat this run: nas-proxy run --config run.toml\n" if config.compare is None else ""
    write_text(path, again + tomli_w.dumps(listed(to_dict(config))))


def default_folder(config: RunConfig) -> Path:
    """Return runs/<dataset>-<space>, with the space's parameters where it has some; a comparison's is told apart."""
    from nas_proxy.spaces.built_in import split_spec
    from nas_proxy.spaces.by_value import GIVEN

    space, parameters = split_spec(config.space.removeprefix(GIVEN))
    names = [Path(name).stem or "data" for name in (config.dataset.split(":", 1)[-1], space)]
    kind = [] if config.compare is None else ["compare"]
    return Path("runs") / "-".join([*kind, *names, *filter(None, [re.sub(r"[^\w.,=]", "_", parameters)])])
