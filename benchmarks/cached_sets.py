"""Condensed sets that benchmarks keep in a folder, so that a run that is cut off goes on with what is done."""

import json
from dataclasses import asdict
from pathlib import Path

from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet


def condensed(train: ImageSet, recipe: Condensation, seed: int, folder: Path, device: str) -> tuple[ImageSet, float]:
    """Return a condensed set and the seconds that it took; one of other data or settings is made anew."""
    parts = (recipe.embed, recipe.precision, recipe.width, recipe.images_per_class, recipe.steps, seed)
    path = folder / f"{'-'.join(map(str, parts))}.safetensors"
    identity = json.loads(json.dumps([train.fingerprint(), asdict(recipe), seed]))
    if not path.exists() or ImageSet.load_metadata(path)["identity"] != identity:
        checkpoint = path.with_suffix(".part")
        made = make_proxy(train, recipe, seed, device=device, checkpoint=checkpoint)
        made.images.save(path, {"identity": identity, "seconds": made.seconds})
        checkpoint.unlink(missing_ok=True)
    return ImageSet.load(path), float(str(ImageSet.load_metadata(path)["seconds"]))
