"""What signals are called in studies, files and on the command line, and what a reader sees instead."""

PROXY, RANDOM, EARLY_STOP, TOTAL, TRUTH = "proxy", "random", "early_stop", "random_total", "truth"
SIZES = ("params", "flops")
ZERO_COST = (*SIZES, "synflow", "jacob_cov", "naswot", "az_nas")
CALIBRATED, COMBINED, REPEATABILITY = "calibrated", "combined", "repeatability"
LOSS_SUM = ":loss_sum"

LABELS = {
    PROXY: "Proxy",
    "dm": "Condensed",
    RANDOM: "Random images",
    "herding": "Herding",
    "kcenter": "K-centre",
    "patches": "Patches",
    EARLY_STOP: "Early stop",
    TOTAL: "Random, equal cost",
    "params": "Parameters",
    "flops": "FLOPs",
    "synflow": "SynFlow",
    "jacob_cov": "Jacob_cov",
    "naswot": "NASWOT",
    "az_nas": "AZ-NAS",
    CALIBRATED: "Calibrated",
    COMBINED: "Mean rank",
    REPEATABILITY: "Full training",
    TRUTH: "Full training",
    "latency": "Latency",
}
# By what a row ranks, where it is not what its table ranks by.
BY = {"accuracy": "by accuracy", "loss_sum": "by loss sum"}


def label(row: str) -> str:
    """Return the name of a signal, or of its row by another score, as a reader sees it.

    "proxy:loss_sum" is "Proxy, by loss sum", "dm+space" "Condensed, dm+space". A name of nobody's stays as it is.
    """
    name, _, score = row.partition(":")
    base = name.partition("@")[0].partition("+")[0]
    if base not in LABELS:
        return row
    shown = LABELS[base] if name == base else f"{LABELS[base]}, {name}"
    return f"{shown}, {BY[score]}" if score in BY else row if score else shown
