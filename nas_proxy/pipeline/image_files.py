"""Image sets as files in a run's working folder, which workers map into memory: made when first asked for.

This is the only module that opens the test images, for the ground truth and, once, for a final network.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import held_out_test
from nas_proxy.pipeline.problem import Problem
from nas_proxy.training.train import EVALUATION_BATCH, Fitted


@dataclass(frozen=True)
class ImageFiles:
    """The parts of the data of `problem` as files in `folder`, each written once a command.

    check: is given the fingerprint of the test images when they are opened, before anything is scored on them.
    """

    folder: Path
    problem: Problem
    check: Callable[[str], None] = lambda fingerprint: None
    _written: set[Path] = field(default_factory=set, repr=False)

    def train(self) -> Path:
        """Return the file of all training images."""
        return self._file("train", lambda: self.problem.data.train)

    def validation(self) -> Path:
        """Return the file of the validation images."""
        return self._file("validation", lambda: self.problem.data.validation)

    def test(self) -> Path:
        """Return the file of the test images."""
        return self._file("test", self._checked_test)

    def _checked_test(self) -> ImageSet:
        images = test_images(self.problem)
        self.check(images.fingerprint())
        return images

    def remove(self) -> None:
        """Remove what was written, and the folder where nothing else is in it; checkpoints stay."""
        for path in self._written:
            path.unlink(missing_ok=True)
        self._written.clear()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _file(self, name: str, make: Callable[[], ImageSet]) -> Path:
        path = self.folder / f"{name}.safetensors"
        if path not in self._written:
            make().save(path)
            self._written.add(path)
        return path


def test_images(problem: Problem) -> ImageSet:
    """Return the test images."""
    config = problem.config
    return held_out_test(problem.source, problem.data, seed=config.seed, limit=config.limit)


@torch.no_grad()
def confusion_on_test(problem: Problem, final: Fitted) -> Tensor | None:
    """Return how many test images of each class, in rows, are taken for which, int64; None where it diverged."""
    test, network = test_images(problem).to(problem.device), final.network.eval()
    if not all(math.isfinite(loss) for loss in final.losses):
        return None
    count = len(test.classes)
    found = torch.zeros(count * count, dtype=torch.int64)
    for start in range(0, len(test), EVALUATION_BATCH):
        batch = slice(start, start + EVALUATION_BATCH)
        logits = network(test.decode(batch))
        if not bool(logits.isfinite().all()):
            return None
        found += torch.bincount(count * test.labels[batch] + logits.argmax(1), minlength=count * count).cpu()
    return found.view(count, count)
