"""Looking at a run while it works and after it: Optuna's dashboard, read-only, and the status in the terminal."""
