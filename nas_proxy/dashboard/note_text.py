"""The note of a study, as Markdown: what a folder holds in, what its signal is and how it does out.

Guarantee: text of the user's is shown as it is and never as markup.
"""

import re
from collections import Counter
from collections.abc import Sequence

from nas_proxy.dashboard.folder import Look
from nas_proxy.names import EARLY_STOP, LOSS_SUM, PROXY, RANDOM, REPEATABILITY, TRUTH, label
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.ranking.scores import best_first
from nas_proxy.report.formats import UNDEFINED, decimal, duration, interval, percent
from nas_proxy.report.run_contents import Run
from nas_proxy.report.verdict import answer, verdict
from nas_proxy.signals.signal import EqualCost, Signal, SmallSet
from nas_proxy.spaces.objectives import METRICS
from nas_proxy.storage.read_only import OURS
from nas_proxy.storage.records import LATENCY, Record

REPORT = "/report.html"
"""Where the dashboard serves the report of the folder."""
WHAT = {
    PROXY: "Every candidate of the search, trained on the condensed images and scored on the validation images.",
    "dm": "The sampled architectures on condensed images (distribution matching).",
    RANDOM: "The sampled architectures on as many random real images as the condensed set has, in several draws.",
    "herding": "The sampled architectures on real images chosen by herding.",
    "kcenter": "The sampled architectures on real images chosen by k-centre.",
    "patches": "The sampled architectures on patches of real images of which a small trained network is surest.",
    EARLY_STOP: "The sampled architectures on all images, for as many image passes as on the condensed set.",
    "random_total": "The sampled architectures on more random images, at the whole cost of a condensed set.",
    TRUTH: "The sampled architectures, in two seeds, and what the search chooses, on all images; scored on the test "
    "images, which judge, and on the validation images, which the search sees.",
    LATENCY: "How long each architecture takes to answer, untrained: the median of many passes, measured once.",
}
VARIANTS = {
    "space": "Embedded by networks of the search space.",
    "formation": "Four images are stored as one.",
    "all": "Matched at every block.",
}
MEANINGS = (
    ("key", "the architecture"),
    ("phase, index", "drawn uniformly (sample) or proposed (search), and its number there"),
    ("draw", "which set of its kind, or which seed of full training"),
    ("why", "by what it was proposed: vote, upper third, expected improvement, enqueued, or a sampler"),
    ("validation", "accuracy of a full training on the validation images, by which the search chooses"),
    ("params, flops", "trainable parameters; floating-point operations for one image"),
    ("latency_ms, latency_quartiles_ms", "how long it takes to answer, where that was measured; half lie between"),
    ("seconds, image_passes", "what the training cost"),
    (
        "losses",
        "mean training loss of each epoch; its curve is the intermediate values, but where a pruner kept others",
    ),
    ("diverged, reason", "the loss became infinite; why the training failed or was pruned"),
    ("seeds, scores, loss_sums, …_std", "of several seeds: each one's accuracy and sum of losses, and their spread"),
    ("pruned_at, seconds_saved", "the step after which a pruner ended it, and about what that saved"),
)
MOST_REASONS, REASON_LENGTH = 5, 160
# Characters that Markdown gives a meaning inside a line.
MARKUP = re.compile(r"([\\`*_\[\]<>|$~&!{}#])")


def markdown(text: object) -> str:
    """Return Markdown that reads as `text`, on one line."""
    return MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def note(signal: str, look: Look, run: Run) -> str:
    """Return the note of one study."""
    of = next((one for one in look.plan.trained if one.name == signal), None)
    records = look.of(signal)
    others = ", ".join(
        f"[{markdown(label(other))}](/dashboard/studies/{number})"
        for other, number in look.studies.items()
        if other != signal
    )
    lines = [
        _what(signal, of),
        "",
        f"**{markdown(verdict(run.ranking))}**",
        "",
        *(f"- **{name}**: {markdown(value)}" for name, value in _rows(signal, of, run.ranking)),
        *(f"- **{name}**: {markdown(value)}" for name, value in _settings(signal, of, look)),
        *(f"- **{name}**: {markdown(value)}" for name, value in _trainings(signal, look, records)),
        "",
        *_failed_with(records),
        f"Other studies: {others or 'none yet'}. [The report]({REPORT}).",
        "",
        OURS,
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in MEANINGS),
    ]
    return "\n".join(lines) + "\n"


def _what(signal: str, of: Signal | None) -> str:
    base, *variants = signal.partition("@")[0].split("+")
    told = [
        WHAT.get(base, markdown(label(signal))),
        *(VARIANTS[variant] for variant in variants if variant in VARIANTS),
    ]
    if of is not None and isinstance(of.source, EqualCost):
        told.append(f"Here it is that of {markdown(of.source.target)}.")
    if signal == LATENCY:
        told.append("It is noisy, and holds for the `device` that a trial names; what is too slow is infeasible here.")
    return " ".join(told)


def _rows(signal: str, of: Signal | None, ranking: Ranking | None) -> list[tuple[str, str]]:
    """Return how well a signal ranks, by each of its scores, whether it beats random images, and what it took."""
    if ranking is None:
        return []
    names = [REPEATABILITY] if signal == TRUTH else [signal, signal + LOSS_SUM, f"{signal}:accuracy"]
    told = []
    for name in names:
        row = ranking.row(name)
        if row.spearman.value is None:
            continue
        against = "itself" if signal == TRUTH else "full training"
        beats = "" if answer(row) == UNDEFINED else f"; beats random images? {answer(row)}"
        told.append((f"Spearman of {label(name).lower()} with {against}", f"{interval(row.spearman)}{beats}"))
    cost = next((ranking.row(name).cost for name in names if name in ranking.signals), None)
    if cost is not None and cost.seconds is not None:
        making = ", with the making of its set" if of is not None and of.made else ""
        told.append((f"time of a draw{making}", duration(cost.seconds)))
    if signal in ranking.equal_cost:
        told.append(("equal cost", ranking.equal_cost[signal].what))
    return told


def _settings(signal: str, of: Signal | None, look: Look) -> list[tuple[str, object]]:
    config = look.run.config
    rows: list[tuple[str, object]] = [("folder", look.run.path.resolve().name), ("dataset", config.dataset)]
    rows += [("space", config.space), ("seed", config.seed)]
    rows.append(("sample", f"{config.sample} architectures drawn uniformly"))
    if config.truth_table:
        rows.append(("truth", config.truth_table))
    if config.compare is not None:
        rows.append(("compared", ", ".join(one.name for one in look.plan.signals)))
    if of is not None and isinstance(of.source, SmallSet):
        recipe = of.source.recipe
        method = recipe.source or ("distribution matching" if recipe.method == "dm" else recipe.method)
        steps = f", {recipe.steps} steps" if method == "distribution matching" else ""
        rows.append(("images", f"{recipe.images_per_class} a class, by {method}{steps}"))
    if of is not None and of.draws > 1:
        rows.append(("draws", of.draws))
    if signal == PROXY and len(config.objective) > 1:
        rows.append(("objectives", ", ".join(METRICS[name] for name in config.objective)))
    limits = {name: getattr(config, name) for name in ("max_params", "max_flops", "max_latency_ms")}
    if given := ", ".join(f"{name} {limit:,g}" for name, limit in limits.items() if limit is not None):
        rows.append(("constraints", f"{given}; a trial's constraints are its distances above them"))
    if signal == TRUTH:
        rows.append(("epochs of a training", config.full_training.epochs))
    elif look.plan.passes is not None and not (of is not None and isinstance(of.source, EqualCost)):
        rows.append(("image passes of a training", f"{look.plan.passes:,}"))
    elif signal == PROXY:
        rows.append(("epochs of a training", config.proxy_training.epochs))
    return rows


def _trainings(signal: str, look: Look, records: Sequence[Record]) -> list[tuple[str, str]]:
    if signal == LATENCY:
        return []
    complete, failed = sum(record.complete for record in records), sum(record.failed for record in records)
    pruned = len(records) - complete - failed
    rows = [("trainings", f"{complete} complete, {failed} failed" + (f", {pruned} pruned" if pruned else ""))]
    by = "accuracy" if signal == TRUTH else look.plan.primary
    for best in best_first(records, by)[:1]:
        by_losses = "" if by == "accuracy" else f" and a sum of losses of {decimal(best.loss_sum)}, by which it is best"
        rows.append(("best", f"{percent(best.score)}{by_losses}: {best.key}"))
    if signal == TRUTH and look.pick is not None:
        rows.append(("pick", f"{look.pick}, by posterior mean"))
    return rows


def _failed_with(records: Sequence[Record]) -> list[str]:
    """Return the lines that tell the commonest reasons of failure; [] where nothing failed."""
    counted = Counter(record.reason or "no score" for record in records if record.failed)
    if not counted:
        return []
    lines = [f"- {times} × {markdown(reason[:REASON_LENGTH])}" for reason, times in counted.most_common(MOST_REASONS)]
    if len(counted) > MOST_REASONS:
        lines.append(f"- {len(counted) - MOST_REASONS} other reasons")
    return ["Failed, each with the attribute `reason`:", "", *lines, ""]
