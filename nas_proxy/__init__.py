"""Neural architecture search on a condensed data set, with a measured answer to how far its ranking is trusted.

import nas_proxy

run = nas_proxy.run("digits", "convnet", out="runs/digits")
print(run.pick, run.ranking["signals"]["proxy"]["spearman"])

A module is imported when one of its names is first used, so `import nas_proxy` takes milliseconds.
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
    from nas_proxy.condensation.proxy_set import condense
    from nas_proxy.condensation.recipe import Condensation, Condensed
    from nas_proxy.condensation.selection import select
    from nas_proxy.data.images import ImageSet, join
    from nas_proxy.data.shape import DataShape
    from nas_proxy.data.splits import Development, load_data
    from nas_proxy.pipeline.api import FinishedRun, run
    from nas_proxy.pipeline.final import Final, load_final, train_final
    from nas_proxy.pipeline.objective import ProxyObjective
    from nas_proxy.pipeline.settings import RunConfig
    from nas_proxy.spaces.convnet import ConvNet
    from nas_proxy.spaces.loading import load_space
    from nas_proxy.spaces.space import NOTHING, All, Architecture, Branch, Choice, SearchSpace, Space, repeat
    from nas_proxy.training.train import Outcome, Recipe, train
else:
    # Hidden from type checkers, which would take any name whatsoever for one of this package's.
    _NAMES_OF = {
        "condensation.proxy_set": ("condense",),
        "condensation.recipe": ("Condensation", "Condensed"),
        "condensation.selection": ("select",),
        "data.images": ("ImageSet", "join"),
        "data.shape": ("DataShape",),
        "data.splits": ("Development", "load_data"),
        "pipeline.settings": ("RunConfig",),
        "pipeline.api": ("FinishedRun", "run"),
        "pipeline.final": ("Final", "load_final", "train_final"),
        "pipeline.objective": ("ProxyObjective",),
        "spaces.convnet": ("ConvNet",),
        "spaces.loading": ("load_space",),
        "spaces.space": ("NOTHING", "All", "Architecture", "Branch", "Choice", "SearchSpace", "Space", "repeat"),
        "training.train": ("Outcome", "Recipe", "train"),
    }

    def __getattr__(name):
        from importlib import import_module

        for module, names in _NAMES_OF.items():
            if name in names:
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
    "FinishedRun",
    "ImageSet",
    "NasProxyError",
    "Outcome",
    "ProxyObjective",
    "Recipe",
    "RunConfig",
    "RunFailedError",
    "RunFolderError",
    "SearchSpace",
    "Space",
    "SpaceError",
    "UserError",
    "__version__",
    "condense",
    "join",
    "load_data",
    "load_final",
    "load_space",
    "repeat",
    "run",
    "select",
    "train",
    "train_final",
]
