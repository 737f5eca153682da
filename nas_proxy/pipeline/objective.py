"""The proxy as a plain Optuna objective, for people with a study, a sampler and a pruner of their own.

    study = optuna.create_study(direction="maximize")
    study.optimize(nas_proxy.ProxyObjective("runs/digits-convnet"), n_trials=20)

In: a run folder in which `nas-proxy condense` has been (or a condensed set and validation images), and a search space.
Out: the score of the suggested architecture, trained on the condensed set, as the search itself scores it.
Guarantees: a score depends on the architecture and the seed alone; test images are not opened; nothing is written.
"""

from collections.abc import Callable
from pathlib import Path

import optuna
from torch import nn

from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development
from nas_proxy.errors import RAISED, ConfigError, RunFolderError, nearest
from nas_proxy.pipeline.opened import Proxy
from nas_proxy.pipeline.problem import choose_device, read_data
from nas_proxy.ranking.scores import SCORES, value_of
from nas_proxy.runs.folder import RunFolder, open_run
from nas_proxy.seeds import derive
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.loading import as_space, load_space
from nas_proxy.spaces.measured import Size
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.training.pruning import marks
from nas_proxy.training.seed_average import repeated
from nas_proxy.training.train import Outcome, Recipe, Watch, train
from nas_proxy.untrusted import in_a_line, said

# Epochs of a training on the proxy where neither a run nor the user says.
EPOCHS = 200


class ProxyObjective:
    """A function of an Optuna trial that returns a score to be maximised.

    proxy: of `nas_proxy.condense`; or a run folder; or its proxy.safetensors; or an `ImageSet`, or the file of one,
        with `validation`.
    space: as in `nas_proxy.load_space`, or a `Space`, or a function of a trial; the run's if not given.
    validation: images to score on; the run's if not given. recipe, seed: the run's if not given.
    seeds: trainings of an architecture, whose mean counts; the run's if not given. Only the first reports to the trial.
    score: "accuracy" on the validation images, a fraction, or "loss_sum", the negated sum of the training losses; the
        run's if not given. max_params, max_flops: larger architectures are pruned before they are trained; the run's
        limits if not given.
    device: "auto", "cpu", "cuda" or "cuda:N".
    reports: how often, at most, a training reports its score so far to the trial, for pruners; the step is the
        number of epochs done. By losses, that is the negated mean so far.

    A trial gets the user attributes `key`, `params` and `flops`. One whose architecture the space refuses or which is
    too large, or whose network raises, is pruned, but for the first with the attribute `reason`. One that diverges
    scores as chance, and is pruned by losses. An architecture that comes again is not trained again. Use processes
    rather than `n_jobs`: threads would share PyTorch's generator, and scores would not repeat.
    """

    def __init__(
        self,
        proxy: str | Path | Proxy | ImageSet,
        space: str | Path | SearchSpace | Callable[..., nn.Module] | None = None,
        *,
        validation: ImageSet | None = None,
        recipe: Recipe | None = None,
        seed: int | None = None,
        seeds: int | None = None,
        score: str | None = None,
        max_params: int | None = None,
        max_flops: int | None = None,
        device: str = "auto",
        reports: int = 10,
    ) -> None:
        if isinstance(proxy, Proxy):
            proxy = proxy.folder
        run = None if isinstance(proxy, ImageSet) else _run_of(Path(proxy))
        if run is None and (space is None or validation is None):
            raise RunFolderError(
                f"{'the images' if isinstance(proxy, ImageSet) else proxy} belong to no run; give `space` and "
                "`validation`, or the run folder instead"
            )
        self.device = choose_device(device)
        data = None if run is None else _data_of(run)
        images = proxy if isinstance(proxy, ImageSet) else _condensed(Path(proxy), data)
        self.proxy = images.unpacked().to(self.device)
        if run is not None and data is not None:
            space = run.config.space if space is None else space
            validation = data.validation if validation is None else validation
        assert validation is not None
        self.validation = validation.to(self.device)
        if isinstance(space, str | Path):
            self.space = load_space(str(space), images.shape)
        else:
            self.space = as_space(space, "objective", images.shape)
        self.recipe = recipe or (run.config.proxy_training if run is not None else Recipe(epochs=EPOCHS))
        self.seed = seed if seed is not None else run.config.seed if run is not None else 0
        self.seeds = seeds or (run.config.seeds if run is not None else 1)
        self.score = score or (run.config.score if run is not None else SCORES[0])
        if self.score not in SCORES:
            raise ConfigError([f"score is {self.score!r}{nearest(self.score, SCORES)}"])
        self.max_params = max_params if max_params is not None or run is None else run.config.max_params
        self.max_flops = max_flops if max_flops is not None or run is None else run.config.max_flops
        self.reports = reports
        self._known: dict[str, float] = {}

    def __call__(self, trial: optuna.Trial) -> float:
        """Suggest an architecture, train it on the proxy and return its score."""
        architecture = self.space.suggest(trial)
        if architecture is None:
            raise optuna.TrialPruned("the search space refuses this architecture")
        key = self.space.key(architecture)
        trial.set_user_attr("key", key)
        try:
            size = measure(self.space, architecture, self.proxy.shape)
            _tell_size(trial, size)
            self._check_size(trial, size)
            if key not in self._known:
                self._known[key] = self._score(trial, lambda: self.space.build(architecture, self.proxy.shape), key)
        except optuna.TrialPruned:
            raise
        except RAISED as error:
            trial.set_user_attr("reason", in_a_line(error))
            raise optuna.TrialPruned(said(error)) from error
        return self._known[key]

    def _check_size(self, trial: optuna.Trial, size: Size) -> None:
        for count, most, name in ((size.params, self.max_params, "parameters"), (size.flops, self.max_flops, "FLOPs")):
            if most is not None and count > most:
                trial.set_user_attr("reason", f"it has {count:,} {name}, and at most {most:,} are wanted")
                raise optuna.TrialPruned(trial.user_attrs["reason"])

    def _score(self, trial: optuna.Trial, build: Callable[[], nn.Module], key: str) -> float:
        # The seed of the search's own trainings, so that both give an architecture the same score.
        seed = derive(self.seed, "proxy", key, 0)

        def ends(epoch: int, score: float) -> bool:
            trial.report(score, epoch)
            return trial.should_prune()

        watch = Watch(marks(self.recipe, self.reports), ends, self.score)
        single = len(trial.study.directions) == 1  # Optuna prunes by one objective only

        def once(drawn: int, _: Watch | None) -> Outcome:
            watched = watch if single and drawn == seed else None
            return train(build, self.proxy, self.validation, self.recipe, drawn, self.device, watched)

        outcome = repeated(once, self.recipe, seed, self.seeds)
        if outcome.pruned_at is not None:
            raise optuna.TrialPruned(f"after {outcome.pruned_at} of {self.recipe.epochs:g} epochs")
        score = value_of(outcome, self.score)
        if score is None:
            trial.set_user_attr("reason", "the training diverged")
            raise optuna.TrialPruned("the training diverged")
        return score


def _tell_size(trial: optuna.Trial, size: Size) -> None:
    trial.set_user_attr("params", size.params)
    trial.set_user_attr("flops", size.flops)


def _run_of(place: Path) -> RunFolder | None:
    """Return the run whose folder or condensed set `place` is, to read from; None for a file of no run."""
    folder = place.parent if place.is_file() else place
    return None if place.is_file() and not (folder / "run.toml").is_file() else open_run(folder)


def _data_of(run: RunFolder) -> Development:
    config = run.config
    return read_data(open_source(config.dataset, image_size=config.image_size), config)


def _condensed(place: Path, data: Development | None) -> ImageSet:
    path = place / "proxy.safetensors" if place.is_dir() else place
    images = ImageSet.load(path)
    if data is not None:
        made_of = ImageSet.load_metadata(path).get("data_fingerprint")
        if made_of != data.fingerprint:
            raise RunFolderError(
                f"{path} was made from other data (fingerprint {made_of}, the data now has {data.fingerprint}); "
                "restore the data or give `validation`"
            )
    return images
