"""The settings of a run: typed, complete, written to and read from TOML.

Precedence: the defaults of the data set, then a file, then what was given explicitly. Mistakes are collected and
reported together, each with the value, what is allowed and, for an unknown name, the nearest valid one. The paths
of the user's data and space come out absolute, so that a run goes on, and repeats, from any working directory.
"""

import dataclasses
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import tomli_w

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import augment
from nas_proxy.errors import ConfigError, nearest
from nas_proxy.files import write_text
from nas_proxy.pipeline import bounds
from nas_proxy.pipeline.bounds import is_a, kind_of
from nas_proxy.ranking.nats_bench import PREFIX
from nas_proxy.signals import computed
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.storage.location import without_password
from nas_proxy.training.train import Recipe

# Data sets whose classes change their meaning when mirrored.
NOT_MIRRORED = frozenset({"digits", "mnist", "svhn"})


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run depends on.

    dataset, space: what the user named; see `nas_proxy.data.sources` and `nas_proxy.spaces.loading`.
    seed: all randomness derives from it.
    trials: architectures trained on the proxy, the sample included.
    truth: architectures in the uniform sample, each trained on all data as well.
    sampler: how the other architectures are proposed, one of `nas_proxy.search.samplers.SAMPLERS`.
    score: what ranks and picks candidates: "accuracy" on the validation images, or "loss_sum", the negated sum of the
        training losses; see `nas_proxy.ranking.scores`. The ranking shows both. seeds: trainings a candidate, and a
        control; the score is their mean. pruner: which of Optuna's pruners ends proposals early, or "none"; see
        `nas_proxy.training.pruning`.
    enqueue: architectures that are proposed first, each a key or a JSON object; see `nas_proxy.search.enqueue`.
    truth_table: published accuracies in place of full training, see `nas_proxy.ranking.truth_table`; None to train.
        allow_pickle: whether it may be a file that can run code when it is loaded. Whoever repeats somebody else's
        settings should look at this, and at `space`, which can name a Python file.
    patience: the search ends after so many proposals without a better one. hours: it proposes no more after so
        long; the same command goes on. None for neither. Neither is part of a run's identity.
    objective: what the search is for, the accuracy first; of `nas_proxy.spaces.objectives.OBJECTIVES`.
    max_params, max_flops, max_latency_ms: larger and slower architectures are neither sampled nor proposed, see
        `nas_proxy.spaces.limits`. latency_batch: images in the forward pass that is timed.
    storage: URL of the PostgreSQL database that holds the studies, without a password, see
        `nas_proxy.storage.location`; None for the file `study.db` in the run folder.
    limit: at most so many images a class are used of the data; None for all.
    image_size: images are resized to this square; None leaves them as they are.
    device: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N". workers: processes that train
        candidates; 0 for one a core on the CPU and one on a GPU. devices: several, each with so many workers, 0 for
        one; () for `device` alone. candidate_minutes: a candidate that trains longer on the proxy is ended and
        counts as failed, and so does one whose latency takes longer to measure; None for no limit, but 1 minute for
        a latency. candidate_memory: so does one that needs more MB (10⁶ bytes) than this, see
        `nas_proxy.training.memory_limit`. preview_every: steps of the condensation between pictures of its images; 0
        for none. classes_per_step: classes that it has in memory at a time; None for as many as fit. None of these is
        part of a run's identity.
    signals: what the ranking of the proxy is compared with besides random images and early stopping, computed
        without training; names of `nas_proxy.signals.computed.NAMES`. combine: signals whose mean rank is one more, of
        `nas_proxy.signals.computed.MEMBERS`; () for none. Both may change at any time, too.
    condense: recipe of the condensed set. proxy_training: of candidates on it, and of the controls.
        full_training: of the ground truth.
    """

    dataset: str = "digits"
    space: str = "convnet"
    seed: int = 0
    trials: int = 48
    truth: int = 24
    truth_table: str | None = None
    allow_pickle: bool = False
    sampler: str = "tpe"
    score: str = "accuracy"
    seeds: int = 1
    pruner: str = "none"
    enqueue: tuple[str, ...] = ()
    patience: int | None = None
    hours: float | None = None
    objective: tuple[str, ...] = (ACCURACY,)
    max_params: int | None = None
    max_flops: int | None = None
    max_latency_ms: float | None = None
    latency_batch: int = 1
    storage: str | None = None
    limit: int | None = None
    image_size: int | None = None
    device: str = "auto"
    devices: tuple[str, ...] = ()
    workers: int = 0
    candidate_minutes: float | None = None
    candidate_memory: float | None = None
    preview_every: int = 0
    classes_per_step: int | None = None
    signals: tuple[str, ...] = computed.SIZES
    combine: tuple[str, ...] = ()
    condense: Condensation = field(default_factory=Condensation)
    proxy_training: Recipe = field(default_factory=lambda: Recipe(epochs=200))
    full_training: Recipe = field(default_factory=lambda: Recipe(epochs=50))


# What the proposals alone depend on: it may change until the first of them is trained.
OF_PROPOSALS = frozenset({"sampler", "enqueue", "score", "pruner"})
# Where the trainings are kept: it may change until there are some.
OF_TRAININGS = frozenset({"storage"})
# What may change between two commands in one folder: where it is computed, how far it goes, what is computed anew.
NOT_IDENTITY = frozenset(
    {"device", "devices", "workers", "candidate_minutes", "candidate_memory", "preview_every", "classes_per_step"}
    | {"trials", "truth", "patience", "hours", "signals", "combine", "allow_pickle"}
)


def default_config(
    dataset: str = "digits", *, flip: bool = True, images_per_class: int = 10, trials: int = RunConfig.trials
) -> RunConfig:
    """Return the settings for a data set; those of digits are made for a first look on two cores."""
    strategy = augment.FULL if flip and dataset not in NOT_MIRRORED else augment.NO_FLIP
    small = dataset == "digits"
    return RunConfig(
        dataset=dataset,
        # Whoever asks for a few trials means all of them: a larger sample has to be asked for.
        truth=max(1, min(RunConfig.truth, trials)),
        condense=Condensation(
            images_per_class=images_per_class,
            steps=200 if small else 1000,
            learning_rate=10.0 if images_per_class > 50 else 1.0,
            width=64 if small else 128,
            augmentation=strategy,
        ),
        proxy_training=Recipe(epochs=60 if small else 200, augmentation=strategy),
        full_training=Recipe(epochs=10 if small else 50, augmentation=strategy),
    )


def resolve(
    given: Mapping[str, Any], file: Path | None = None, *, options: Mapping[str, str] | None = None
) -> RunConfig:
    """Return the complete settings from a file and from explicit values, both over the defaults.

    given: nested mappings with the names of `RunConfig`'s fields, and `flip` (bool); None means not given.
    options: what the user calls a setting, such as {"condense.steps": "--steps"}; told in mistakes.
    A relative path in `given` starts at the working directory, one in the file at the file's folder.
    Raises ConfigError with all mistakes.
    """
    read = _anchored(_read_toml(file), file.parent) if file is not None else {}
    given = _anchored(_without_none(given), Path())
    merged = _merged(read, given)
    if isinstance(url := merged.get("storage"), str):
        merged["storage"] = without_password(url)
    flip = merged.pop("flip", True)
    dataset = merged.get("dataset", "digits")
    condense = merged.get("condense", {})
    images_per_class = condense.get("images_per_class", 10) if isinstance(condense, dict) else 10
    trials = merged.get("trials", RunConfig.trials)
    base = default_config(
        dataset if isinstance(dataset, str) else "digits",
        flip=flip is not False,
        images_per_class=images_per_class if is_a(images_per_class, int) else 10,
        trials=trials if is_a(trials, int) else RunConfig.trials,
    )
    if flip is False:
        # An explicit --no-flip also holds against a file that mirrors.
        for name in ("condense", "proxy_training", "full_training"):
            recipe = merged.get(name)
            if isinstance(recipe, dict) and isinstance(recipe.get("augmentation"), list):
                recipe["augmentation"] = [o for o in recipe["augmentation"] if o != "flip"]
    mistakes: list[tuple[str, str]] = []
    if not is_a(flip, bool):
        mistakes.append(("flip", f"flip is {flip!r}; it must be true or false"))
    config = _filled(base, merged, "", mistakes)
    if mistakes:
        explicit = _flat(given)

        def told(path: str, mistake: str) -> str:
            if path not in explicit:
                return mistake if file is None else f"{file}: {mistake}"
            option = (options or {}).get(path, path)
            same = option.removeprefix("--").replace("-", "_") == path
            return mistake.replace(path, option if same else f"{option} ({path})", 1)

        raise ConfigError([told(path, mistake) for path, mistake in mistakes])
    return typing.cast("RunConfig", config)


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return `values` with the paths in `dataset` and `space` absolute; relative ones start at `folder`."""
    anchored = dict(values)
    for name in ("dataset", "space"):
        if isinstance(value := values.get(name), str):
            anchored[name] = _absolute(value, folder)
    if isinstance(table := values.get("truth_table"), str) and table:
        kind = PREFIX if table.startswith(PREFIX) else ""
        anchored["truth_table"] = kind + _absolute_path(table.removeprefix(kind), folder)
    recipe = values.get("condense")
    if isinstance(recipe, Mapping) and isinstance(source := recipe.get("source"), str) and source:
        anchored["condense"] = {**recipe, "source": _absolute_path(source, folder)}
    return anchored


def _absolute(named: str, folder: Path) -> str:
    kind, _, place = named.partition(":")
    if place and kind in {"folder", "npz"}:
        return f"{kind}:{_absolute_path(place, folder)}"
    file = re.fullmatch(r"(.+\.py)(:[^:]*=[^:]*)?", named)  # a space's parameters come after a colon
    return _absolute_path(file[1], folder) + (file[2] or "") if file else named


def _absolute_path(path: str, folder: Path) -> str:
    # Not Path.resolve: a link is the name that the user chose, and may come to point elsewhere.
    return os.path.abspath(folder / os.path.expanduser(path))  # noqa: PTH100, PTH111


def differences(ours: RunConfig, theirs: RunConfig, *, free: frozenset[str] = frozenset()) -> list[str]:
    """Return "name: theirs → ours" for each setting, but for those in `free`, in which two runs are not the same."""
    a, b = _flat(to_dict(ours)), _flat(to_dict(theirs))
    names = sorted((set(a) | set(b)) - NOT_IDENTITY - free)
    return [f"{name}: {b.get(name)!r} → {a.get(name)!r}" for name in names if a.get(name) != b.get(name)]


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return nested plain values, without those that are None (TOML has no null)."""
    return _without_none(dataclasses.asdict(config))


def write_config(config: RunConfig, path: Path) -> None:
    """Write the settings as TOML, atomically."""
    plain = {k: _listed(v) for k, v in to_dict(config).items()}
    write_text(path, "# Repeat this run: nas-proxy run --config run.toml\n" + tomli_w.dumps(plain))


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"the configuration {file} does not exist; give the run.toml of a run"]) from None
    except IsADirectoryError:
        raise ConfigError([f"the configuration {file} is a folder; give the run.toml in it"]) from None
    except OSError as error:
        raise ConfigError([f"the configuration {file} cannot be read ({error.strerror})"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file} is not a TOML file: {error}; mend it there"]) from None


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values without None, and without the mappings that it leaves empty."""
    inner = {name: _without_none(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        inner = merged.get(name)
        merged[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _filled(base: Any, values: Mapping[str, Any], prefix: str, mistakes: list[tuple[str, str]]) -> Any:
    """Return the dataclass `base` with `values` in place, adding (name, sentence) to `mistakes` for what cannot be."""
    known = {f.name: f for f in fields(base)}
    hints = typing.get_type_hints(type(base))
    changed: dict[str, Any] = {}
    for name, value in values.items():
        path = prefix + name
        if name not in known:
            mistakes.append((path, f"unknown setting {path!r}{nearest(name, known)}"))
            continue
        current = getattr(base, name)
        if is_dataclass(current):
            if isinstance(value, Mapping):
                changed[name] = _filled(current, value, f"{path}.", mistakes)
            else:
                mistakes.append((path, f"{path} is {value!r}; it must be a table [{path}]"))
            continue
        if (wrong := bounds.mistake(path, value, hints[name])) is not None:
            mistakes.append((path, wrong))
            continue
        changed[name] = tuple(value) if isinstance(value, list) else value
        if kind_of(hints[name]) is float:
            changed[name] = float(value)
    return dataclasses.replace(base, **changed)
