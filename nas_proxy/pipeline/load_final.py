"""A final network from its folder: what was told of it, and the network itself, ready for images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from nas_proxy.data.images import DataShape
from nas_proxy.errors import RunFolderError, SpaceError
from nas_proxy.pipeline.deployed import Deployed
from nas_proxy.spaces.loading import Given, load_space, space_digest
from nas_proxy.untrusted import said

FORMAT = "nas_proxy.final/1"


def load_final(folder: str | Path, space: Given | None = None) -> Deployed:
    """Return the final network in `folder`, in evaluation mode: `network.predict(image)`, or `network(images)`.

    space: where it was given to the run itself. Raises RunFolderError where there is no final network, or one that
    cannot be loaded, and SpaceError where its search space is gone or has changed.
    """
    folder = Path(folder)
    told = read_told(folder)
    if told is None or not (folder / "model.safetensors").exists():
        raise RunFolderError(f"{folder} holds no final network; make one with: nas-proxy final RUN")
    try:
        return _loaded(folder, told, space)
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the final network in {folder} cannot be loaded ({said(error)}); make it again with: "
            "nas-proxy final RUN --overwrite"
        ) from None


def _loaded(folder: Path, told: Mapping[str, Any], space: Given | None) -> Deployed:
    from safetensors.torch import load_model

    shape = DataShape(**told["shape"])
    spec = told["space"] if space is None else space
    searched = load_space(spec, shape)
    if space_digest(spec) != told["space_digest"]:
        raise SpaceError(
            f"the search space {told['space']} has changed since {folder} was made; restore it, "
            "or use model.pt2, which needs no search space"
        )
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and replaced
        network = searched.build(told["architecture"], shape)
    load_model(network, folder / "model.safetensors")
    scale, offset = torch.tensor(told["scale"]), torch.tensor(told["offset"])
    size, levels = told.get("image_size"), told.get("levels", {})  # which those made earlier have not
    return Deployed(network, scale, offset, shape, told["classes"], size, levels).eval()


def read_told(folder: Path) -> dict[str, Any] | None:
    """Return the `architecture.json` of a final network, None where there is none. Raises RunFolderError for others."""
    path = folder / "architecture.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}); delete it and run the same command again") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise RunFolderError(f"{path} was not written by nas_proxy; choose another folder with --out")
    return told
