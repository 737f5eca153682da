"""Neural architecture search on a condensed data set, with a measured answer to how far its ranking is trusted.

import nas_proxy

data = nas_proxy.load_data("digits")
proxy = nas_proxy.condense(data, steps=200, out="runs/digits")
found = nas_proxy.search(data, proxy, "convnet", trials=24, truth=12)
ranking = nas_proxy.rank(found)
print(found.pick, ranking.verdict)
network = nas_proxy.final(found)

`nas_proxy.run` does all but the last in one call, and `nas_proxy.open` reads a run that is there. A module is imported
when one of its names is first used, so `import nas_proxy` takes milliseconds.
"""

from typing import TYPE_CHECKING

from nas_proxy._version import __version__
from nas_proxy.errors import (
    ConfigError,
    DataError,
    DeviceError,
    NasProxyError,
    RunFailedError,
    RunFolderError,
    SpaceError,
    UserError,
)

if TYPE_CHECKING:
    from nas_proxy.condensation.proxy_set import make_proxy
    from nas_proxy.condensation.recipe import Condensation, Condensed
    from nas_proxy.condensation.selection import select
    from nas_proxy.data.images import ImageSet, join
    from nas_proxy.data.shape import DataShape
    from nas_proxy.data.splits import Development
    from nas_proxy.pipeline.api import condense, final, load_data, open, rank, run, search  # noqa: A004
    from nas_proxy.pipeline.final import Final
    from nas_proxy.pipeline.load_final import load_final
    from nas_proxy.pipeline.objective import ProxyObjective
    from nas_proxy.pipeline.opened import Proxy, Run
    from nas_proxy.ranking.ranking import Ranking
    from nas_proxy.runs.settings import RunConfig
    from nas_proxy.spaces.convnet import ConvNet
    from nas_proxy.spaces.loading import load_space
    from nas_proxy.spaces.space import NOTHING, All, Architecture, Branch, Choice, SearchSpace, Space, repeat
    from nas_proxy.training.train import Outcome, Recipe, train
else:
    # Hidden from type checkers, which would take any name whatsoever for one of this package's.
    _NAMES_OF = {
        "condensation.proxy_set": ("make_proxy",),
        "condensation.recipe": ("Condensation", "Condensed"),
        "condensation.selection": ("select",),
        "data.images": ("ImageSet", "join"),
        "data.shape": ("DataShape",),
        "data.splits": ("Development",),
        "runs.settings": ("RunConfig",),
        "pipeline.api": ("condense", "final", "load_data", "open", "rank", "run", "search"),
        "pipeline.final": ("Final",),
        "pipeline.load_final": ("load_final",),
        "pipeline.objective": ("ProxyObjective",),
        "pipeline.opened": ("Proxy", "Run"),
        "ranking.ranking": ("Ranking",),
        "spaces.convnet": ("ConvNet",),
        "spaces.loading": ("load_space",),
        "spaces.space": ("NOTHING", "All", "Architecture", "Branch", "Choice", "SearchSpace", "Space", "repeat"),
        "training.train": ("Outcome", "Recipe", "train"),
    }

    def __getattr__(name):
        import warnings
        from importlib import import_module

        for module, names in _NAMES_OF.items():
            if name in names:
                with warnings.catch_warnings():
                    # Optuna's bars miss a widget of notebooks; nothing here shows one.
                    warnings.filterwarnings("ignore", "IProgress not found")
                    value = globals()[name] = getattr(import_module(f"nas_proxy.{module}"), name)
                return value
        raise AttributeError(f"module 'nas_proxy' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "NOTHING",
    "All",
    "Architecture",
    "Branch",
    "Choice",
    "Condensation",
    "Condensed",
    "ConfigError",
    "ConvNet",
    "DataError",
    "DataShape",
    "Development",
    "DeviceError",
    "Final",
    "ImageSet",
    "NasProxyError",
    "Outcome",
    "Proxy",
    "ProxyObjective",
    "Ranking",
    "Recipe",
    "Run",
    "RunConfig",
    "RunFailedError",
    "RunFolderError",
    "SearchSpace",
    "Space",
    "SpaceError",
    "UserError",
    "__version__",
    "condense",
    "final",
    "join",
    "load_data",
    "load_final",
    "load_space",
    "make_proxy",
    "open",
    "rank",
    "repeat",
    "run",
    "search",
    "select",
    "train",
]
