"""The settings of a comparison: those of a run, and what is compared; kept as `compare.toml` in its folder.

A larger sample, more draws and other signals extend a comparison; what scores depend on may not change.
"""

import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomli_w

from nas_proxy.compare.contenders import (
    LOSS_SUM,
    SCORES,
    canonical,
    completed,
    is_made,
    is_total,
    is_trained,
    rows_of,
)
from nas_proxy.errors import ConfigError, RunFolderError, nearest
from nas_proxy.files import write_text
from nas_proxy.pipeline.settings import RunConfig, differences, resolve, to_dict
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.signals.computed import NAMES

FILE = "compare.toml"
OURS = (
    *("study.db", "study.db-journal", "study.db-wal", "study.db-shm", "computed.json"),
    *("scores.csv", "ranking.json", "table.csv", "table.md", "compare.html", FILE),
)
SIGNALS = ("dm", "random", "herding", "early_stop", *NAMES)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    run: data, space, recipes, seed, device; its `truth` is the size of the sample.
    signals: names, see `nas_proxy.compare.contenders`; complete, with the controls. combine: rows whose mean rank is
        one more. score: rows by "accuracy", by "loss_sum" or "both". draws: sets of each kind.
    passes: image passes of a training on a set; None for what the recipe's epochs take.
    candidates: how many share the cost of making a set; None for the sample.
    """

    run: RunConfig
    signals: tuple[str, ...]
    combine: tuple[str, ...] = ()
    score: str = "both"
    draws: int = 3
    passes: int | None = None
    candidates: int | None = None

    @property
    def sharing(self) -> int:
        """The number of candidates that share the cost of making a set."""
        return self.candidates or self.run.truth


def resolve_comparison(
    given: Mapping[str, Any],
    *,
    signals: list[str] | None = None,
    combine: list[str] | None = None,
    score: str = "both",
    sample: Any = None,
    draws: int = 3,
    passes: int | None = None,
    candidates: int | None = None,
    options: Mapping[str, str] | None = None,
) -> Comparison:
    """Return the complete settings; `given` and `options` are those of `nas_proxy.pipeline.settings.resolve`.

    Raises ConfigError with all mistakes.
    """
    mistakes: list[str] = []
    names = _names(SIGNALS if signals is None else signals, mistakes)
    rows = [] if mistakes else [row for name in completed(names) for row in rows_of(name, score)]
    combined = _combined(combine or [], score, rows, mistakes)
    if score not in SCORES:
        mistakes.append(f"--score is {score!r}{nearest(score, SCORES)}")
    if isinstance(sample, int) and sample < LEAST:
        mistakes.append(f"--sample is {sample}, but a ranking needs at least {LEAST} architectures")
    for option, value in (("--draws", draws), ("--passes", passes), ("--candidates", candidates)):
        if value is not None and (not isinstance(value, int) or value < 1):
            mistakes.append(f"{option} is {value!r}; it must be a whole number of at least 1")
    if passes is not None and (given.get("proxy_training") or {}).get("epochs") is not None:
        mistakes.append("--passes and --epochs both say how long a training is; give one of them")
    try:
        run = resolve({**given, "truth": sample, "trials": sample}, options={**(options or {}), "truth": "--sample"})
    except ConfigError as error:
        told = [text for text in error.mistakes if not text.removeprefix("--").startswith("trials ")]
        raise ConfigError([*mistakes, *told]) from None
    if mistakes:
        raise ConfigError(mistakes)
    return Comparison(run, completed(names, combined), combined, score, draws, passes, candidates)


def claim(folder: Path, comparison: Comparison, *, overwrite: bool = False) -> None:
    """Make the folder this comparison's; it is held already. Raises RunFolderError when it holds something else."""
    _refuse_run(folder)
    if overwrite:
        for name in OURS:
            (folder / name).unlink(missing_ok=True)
        for inner in (folder / "sets", folder / ".work"):
            shutil.rmtree(inner, ignore_errors=True)
    check_same(folder, comparison)
    plain = to_dict(comparison.run)
    mine = {name: value for name, value in asdict(comparison).items() if name != "run" and value is not None}
    write_text(folder / FILE, tomli_w.dumps(_listed({**plain, "compare": mine})))


def check_same(folder: Path, comparison: Comparison) -> None:
    """Raise RunFolderError when the folder holds another comparison, or a run."""
    _refuse_run(folder)
    if not (folder / FILE).exists():
        found = [name for name in OURS if (folder / name).exists()]
        if found:
            raise RunFolderError(
                f"{folder} holds {found[0]} but no {FILE}, so it is no comparison; choose another folder with --out"
            )
        return
    if not any((folder / name).exists() for name in ("study.db", "sets")):
        return
    before = open_comparison(folder)
    # Nobody trains fully by the recipe where a table holds the truth.
    unused = [f"full_training.{name}" for name in asdict(comparison.run.full_training)]
    free = frozenset(unused if comparison.run.truth_table else ())
    changed = differences(comparison.run, before.run, free=free)
    changed += [f"passes: {before.passes} → {comparison.passes}"] if before.passes != comparison.passes else []
    if changed:
        raise RunFolderError(
            f"{folder} holds another comparison ({'; '.join(changed)}); "
            "choose another folder with --out, or replace it with --overwrite"
        )


def _refuse_run(folder: Path) -> None:
    """Raise RunFolderError for a run's folder; its studies are not a comparison's, not even to be replaced."""
    if (folder / "run.toml").exists():
        raise RunFolderError(f"{folder} holds a run (it has a run.toml); choose another folder with --out")


def open_comparison(folder: Path) -> Comparison:
    """Return the comparison in a folder. Raises RunFolderError where its settings cannot be read."""
    path = folder / FILE
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        mine: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.pop("compare").items()
        }
        return Comparison(resolve(values), **mine)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror or error}); restore it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is not readable TOML ({error}); restore it or use --overwrite") from None
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path} holds no settings of a comparison; restore it or use --overwrite") from None


def _names(given: list[str] | tuple[str, ...], mistakes: list[str]) -> tuple[str, ...]:
    found = [canonical(name) for name in given]
    mistakes += [f"--signals holds {wrong}" for _, wrong in found if wrong is not None]
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    mistakes += [f"--signals holds {name!r} more than once; leave one" for name in twice]
    mistakes += [] if names else ["--signals is empty; name at least one signal"]
    if not mistakes:
        complete = completed(names)
        for name in names:
            target = name.partition("@")[2]
            if is_total(name) and (target not in complete if target else not any(map(is_made, complete))):
                mistakes.append(f"--signals holds {name!r}, but not the signal whose cost it is matched with")
    return tuple(names)


def _combined(given: list[str], score: str, rows: list[str], mistakes: list[str]) -> tuple[str, ...]:
    found: list[str] = []
    for text in given:
        head, by_loss, _ = text.partition(LOSS_SUM)
        name, wrong = canonical(head)
        row = name + by_loss
        if wrong is not None:
            mistakes.append(f"--combine holds {wrong}")
        elif row not in rows and (is_total(name) or row not in rows_of(name, score)):
            there = "has no such score" if is_trained(name) else "is computed and has no losses"
            mistakes.append(f"--combine holds {text!r}, but {name} {there} here; see --score")
        found.append(row)
    if len(found) == 1:
        mistakes.append(f"--combine holds {found[0]!r} alone; give at least two")
    if len(set(found)) < len(found):
        mistakes.append("--combine holds a signal more than once; leave one")
    return tuple(found)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items() if inner is not None}
    return list(value) if isinstance(value, tuple) else value
