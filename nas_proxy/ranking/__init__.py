"""How far to trust the proxy: ground truth, controls, signals without training, correlations with intervals."""
