"""Pieces of what studies say of themselves in Optuna's dashboard, of a run and of a comparison alike.

Guarantees: text of the user's is shown as it is and never as markup.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas_proxy.storage.records import Record

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ATTRIBUTES = (
    ("key", "the architecture"),
    ("phase, index", "drawn uniformly (sample) or proposed (search), and its number there"),
    ("params, flops", "trainable parameters; floating-point operations for one image"),
    ("latency_ms, latency_quartiles_ms", "how long it takes to answer, where that was measured; half lie between"),
    ("seconds, image_passes", "what the training cost"),
    ("losses", "mean training loss of each epoch"),
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


def attributes(draw: str | None = None) -> list[tuple[str, str]]:
    """Return the attributes of a trial and what they mean; `draw` says what a draw is, where there are several."""
    draws = [] if draw is None else [("draw", draw)]
    return [*ATTRIBUTES[:2], *draws, *ATTRIBUTES[2:]]


def failed_with(records: Sequence[Record]) -> list[str]:
    """Return the lines of a note that tell the commonest reasons of failure; [] where nothing failed."""
    counted = Counter(record.reason or "no score" for record in records if record.failed)
    if not counted:
        return []
    lines = [f"- {times} × {markdown(reason[:REASON_LENGTH])}" for reason, times in counted.most_common(MOST_REASONS)]
    if len(counted) > MOST_REASONS:
        lines.append(f"- {len(counted) - MOST_REASONS} other reasons")
    return ["Failed, each with the attribute `reason`:", "", *lines, ""]


def titled(figure: "Figure", title: str) -> "Figure":
    """Return a figure as it stands on a study's page: on white, since the page's theme is unknown."""
    heading = {"text": title, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8}}
    return figure.update_layout(
        title=heading,
        paper_bgcolor="#ffffff",
        margin={"t": 72},
        height=440,
    )
