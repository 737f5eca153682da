"""Neural architecture search on a condensed data set, with a measured answer to how far its ranking is trusted.

import nas_proxy

run = nas_proxy.run("digits", "convnet", out="runs/digits")
print(run.pick, run.ranking["signals"]["proxy"]["spearman"])
"""

from nas_proxy._version import __version__
from nas_proxy.condensation import Condensation, Condensed, condense
from nas_proxy.config import RunConfig
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
from nas_proxy.images import DataShape, ImageSet
from nas_proxy.space import NOTHING, All, Architecture, Branch, Choice, SearchSpace, Space, repeat
from nas_proxy.space_loading import load_space
from nas_proxy.stages import FinishedRun, run
from nas_proxy.training import Outcome, Recipe, train

__all__ = [
    "NOTHING",
    "All",
    "Architecture",
    "Branch",
    "Choice",
    "Condensation",
    "Condensed",
    "ConfigError",
    "DataError",
    "DataShape",
    "DeviceError",
    "FinishedRun",
    "ImageSet",
    "NasProxyError",
    "Outcome",
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
    "load_space",
    "repeat",
    "run",
    "train",
]
