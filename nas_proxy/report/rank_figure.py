"""The rank plot: where the proxy and full training put the architectures of the uniform sample.

In: the frames of `nas_proxy.report.run_contents.read_run`. Out: a Plotly figure by the rules of
`nas_proxy.report.figure_style`.
"""

from typing import TYPE_CHECKING

from nas_proxy.report.figure_style import FAILED, GRID, OTHER, SAMPLE, blank, hover_text
from nas_proxy.report.formats import percent
from nas_proxy.report.formats import score as text
from nas_proxy.report.run_contents import usable

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure


def ranks_against_truth(trials: "pd.DataFrame", truth: "pd.DataFrame", by: str = "accuracy") -> "Figure":
    """Return the rank by the proxy (x) against that by full training (y), best at the top right, ties in the middle.

    On the line both agree; the colour tells which of the two puts an architecture higher.
    """
    import plotly.graph_objects as go

    scored = trials[usable(trials)].drop_duplicates("key")[["key", "score"]]
    full = truth[truth["accuracy"].notna() & (truth["phase"] == "sample")].drop_duplicates("key")
    rows = full[["key", "accuracy"]].merge(scored, on="key", how="inner")
    proxy, fully = (rows[name].rank(ascending=False) for name in ("score", "accuracy"))
    off, last = (fully - proxy).tolist(), max(len(rows), 2)
    hover = [
        hover_text(
            key, f"proxy: rank {p:g}, score {text(score, by)}", f"full training: rank {t:g}, {percent(accuracy)}"
        )
        for key, p, score, t, accuracy in zip(rows["key"], proxy, rows["score"], fully, rows["accuracy"], strict=True)
    ]
    figure = blank("rank by the proxy", "rank by full training", height=440)
    line = {"color": OTHER, "width": 1, "dash": "dot"}
    figure.add_trace(go.Scatter(x=[1, last], y=[1, last], mode="lines", line=line, hoverinfo="skip", showlegend=False))
    most = max([1.0, *map(abs, off)])
    marker = {
        "size": 10,
        "color": off,
        "cmin": -most,
        "cmax": most,
        "colorscale": [[0, FAILED], [0.5, OTHER], [1, SAMPLE]],
        "line": {"color": GRID, "width": 1},
        "colorbar": {
            **{"orientation": "h", "x": 0.5, "y": 1.02, "xanchor": "center", "yanchor": "bottom", "len": 0.9},
            "tickvals": [-most, 0, most],
            "ticktext": ["lower", "proxy ranks it", "higher"],
            "tickangle": 0,
            "thickness": 8,
            "outlinewidth": 0,
        },
    }
    points = {"x": proxy.tolist(), "y": fully.tolist(), "mode": "markers", "hovertext": hover, "hoverinfo": "text"}
    figure.add_trace(go.Scatter(points, marker=marker, showlegend=False))
    edge = 0.04 * last
    bounds = {"range": [last + edge, 1 - edge], "tick0": 1, "dtick": max(1, round(last / 6))}
    return figure.update_xaxes(bounds).update_yaxes(bounds)
