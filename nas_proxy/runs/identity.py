"""What makes two runs the same: which settings may change between two commands in one folder, and until when."""

import dataclasses

from nas_proxy.runs.nested import flat
from nas_proxy.runs.settings import RunConfig, to_dict

# What the proposals alone depend on: it may change until the first of them is trained.
OF_PROPOSALS = frozenset({"sampler", "enqueue", "score", "pruner"})
# What the condensed images depend on, beside their recipe.
OF_IMAGES = frozenset({"dataset", "seed", "limit", "image_size"})
# Where the trainings are kept: it may change until there are some.
OF_TRAININGS = frozenset({"storage"})
# What may change between two commands in one folder: where it is computed, how far it goes, what is computed anew.
NOT_IDENTITY = frozenset(
    {"device", "devices", "workers", "ray", "gpus_per_candidate", "candidate_minutes", "candidate_memory", "log"}
    | {"preview_every", "classes_per_step", "trials", "truth", "judge", "truth_seeds", "pool", "round", "budget"}
    | {"patience", "hours", "signals", "combine", "allow_pickle"}
    | {f"compare.{name}" for name in ("signals", "combine", "score", "draws", "candidates", "calibrate")}
)


def differences(ours: RunConfig, theirs: RunConfig, *, free: frozenset[str] = frozenset()) -> list[str]:
    """Return "name: theirs → ours" for each setting, but for those in `free`, in which two runs are not the same."""
    a, b = flat(to_dict(ours)), flat(to_dict(theirs))
    if ours.compare is not None and ours.truth_table is not None:
        # Nobody trains fully by the recipe where a table holds the truth.
        free |= {name for name in a if name.startswith("full_training.")}
    names = sorted((set(a) | set(b)) - NOT_IDENTITY - free)
    return [f"{name}: {b.get(name)!r} → {a.get(name)!r}" for name in names if a.get(name) != b.get(name)]


def of_trainings(config: RunConfig) -> frozenset[str]:
    """Return the settings that the condensed images do not depend on; they may change until one is trained on."""
    if config.condense.embed == "space":  # with architectures outside the sample, which many settings decide
        return OF_PROPOSALS | OF_TRAININGS
    names = flat(dataclasses.asdict(config))  # those that are None, too
    return frozenset(name for name in names if name not in OF_IMAGES and not name.startswith("condense."))
