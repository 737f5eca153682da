"""The settings of a run or of a comparison from what is given: a file and explicit values in, all settings out.

Precedence: the defaults of the data set, then a file, then what was given explicitly. Mistakes are collected and
reported together, each with the value, what is allowed and, for an unknown name, the nearest valid one. The paths of
the user's data and space come out absolute, so that a run goes on, and repeats, from any working directory.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import operations
from nas_proxy.errors import ConfigError
from nas_proxy.names import EARLY_STOP, SIZES, ZERO_COST
from nas_proxy.runs import settings_checks
from nas_proxy.runs.comparison_checks import completed
from nas_proxy.runs.nested import anchored, flat, merged, read_toml, without_none
from nas_proxy.runs.settings import Comparison, RunConfig
from nas_proxy.training.recipe import Recipe
from nas_proxy.validation import Mistake, filled, is_whole

# Data sets whose classes change their meaning when mirrored.
NOT_MIRRORED = frozenset({"digits", "mnist", "svhn"})
# What is compared where nothing is named.
COMPARED = ("dm", "random", "herding", EARLY_STOP, *ZERO_COST)

# The uniform sample of a comparison that names none.
COMPARED_SAMPLE = 24


def default_config(
    dataset: str = "digits", *, flip: bool = True, images_per_class: int = 10, trials: int = RunConfig.trials
) -> RunConfig:
    """Return the settings for a data set; those of digits are made for a first look on two cores."""
    strategy = operations.FULL if flip and dataset not in NOT_MIRRORED else operations.NO_FLIP
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

    given: nested mappings with the names of `RunConfig`'s fields, and `flip` (bool); None means not given. With
        "compare", even an empty one, in it or in the file they are a comparison's.
    options: what the user calls a setting, such as {"condense.steps": "--steps"}; told in mistakes.
    A relative path in `given` starts at the working directory, one in the file at the file's folder.
    Raises ConfigError with all mistakes.
    """
    read = anchored(read_toml(file), file.parent) if file is not None else {}
    compares = given.get("compare") is not None or "compare" in read
    given = anchored(without_none(given), Path())
    values, explicit = merged(read, given), flat(given)
    mistakes: list[Mistake] = []
    base = _base(values, mistakes)
    if compares:
        values.pop("trials", None)
        base = replace(base, truth=COMPARED_SAMPLE, signals=SIZES, compare=Comparison(COMPARED))
    config = filled(base, values, mistakes)
    if config.compare is not None:
        config = replace(config, trials=config.truth, compare=completed(config.compare, config.truth, mistakes))
        if {"compare.passes", "proxy_training.epochs"} <= explicit.keys():
            both = "compare.passes and --epochs (proxy_training.epochs) both say how long a training is"
            mistakes.append(("compare.passes", f"{both}; give one of them"))
    elif config.judge is not None and config.judge > config.truth:
        mistakes.append(("judge", f"judge is {config.judge}, more than truth, {config.truth}; give that or less"))
    if config.budget is not None:
        told = f"is chosen by --budget {config.budget}, in place of numbers; leave one of them out"
        mistakes += [(name, f"{name} {told}") for name in ("trials", "truth", "judge") if name in explicit]
    if (wrong := settings_checks.of_cluster(config.ray, config.devices, config.gpus_per_candidate)) is not None:
        mistakes.append(wrong)
    if mistakes:
        raise ConfigError([_told(mistake, explicit, file, options or {}) for mistake in mistakes])
    return config if config.compare is not None else replace(config, judge=config.sample)


def _base(values: dict[str, Any], mistakes: list[Mistake]) -> RunConfig:
    """Return the defaults for what `values` name, and bring these into the form that a RunConfig has."""
    if isinstance(url := values.get("storage"), str):
        from nas_proxy.storage.location import without_password

        values["storage"] = without_password(url)
    flip = values.pop("flip", True)
    if not isinstance(flip, bool):
        mistakes.append(("flip", f"flip is {flip!r}; it must be true or false"))
    if flip is False:
        # An explicit --no-flip also holds against a file that mirrors.
        for name in ("condense", "proxy_training", "full_training"):
            recipe = values.get(name)
            if isinstance(recipe, dict) and isinstance(recipe.get("augmentation"), list):
                recipe["augmentation"] = [o for o in recipe["augmentation"] if o != "flip"]
    dataset, condense = values.get("dataset", "digits"), values.get("condense", {})
    images_per_class = condense.get("images_per_class", 10) if isinstance(condense, dict) else 10
    trials = values.get("trials", RunConfig.trials)
    return default_config(
        dataset if isinstance(dataset, str) else "digits",
        flip=flip is not False,
        images_per_class=images_per_class if is_whole(images_per_class) else 10,
        trials=trials if is_whole(trials) else RunConfig.trials,
    )


def _told(mistake: Mistake, explicit: Mapping[str, Any], file: Path | None, options: Mapping[str, str]) -> str:
    """Return the sentence, with the file's name, or with what the user calls the setting."""
    path, sentence = mistake
    if file is not None and path not in explicit:
        return f"{file}: {sentence}"
    option = options.get(path, path)
    same = option.removeprefix("--").replace("-", "_") in {path, path.removeprefix("compare.")}
    return sentence.replace(path, option if same else f"{option} ({path})", 1)
