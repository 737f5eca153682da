"""A condensed set as the objective of an Optuna study of one's own, with one's own sampler and pruner.

    python examples/optuna_objective.py
    python examples/optuna_objective.py --run runs/objective --trials 50

In: nothing; digits are condensed into the run folder, once. Out: on stdout the best architecture and how many trials
the pruner ended.
"""

import argparse
from pathlib import Path

import optuna

import nas_proxy


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/objective"))
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50, help="of the condensation, where one is made")
    parser.add_argument("--epochs", type=float, help="of a training; those of the run if not given")
    given = parser.parse_args()
    recipe = None if given.epochs is None else nas_proxy.Recipe(epochs=given.epochs)
    proxy = nas_proxy.condense(nas_proxy.load_data("digits"), steps=given.steps, out=given.run)
    objective = nas_proxy.ProxyObjective(proxy, recipe=recipe, reports=5)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    study.optimize(objective, n_trials=given.trials)
    states = [trial.state for trial in study.trials]
    best = study.best_trial
    print(f"Best of {len(states)}: {best.user_attrs['key']}, accuracy {best.value:.3f}")
    print(f"{states.count(optuna.trial.TrialState.PRUNED)} trials were pruned")


if __name__ == "__main__":
    main()
