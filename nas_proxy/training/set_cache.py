"""The image sets that a worker keeps between jobs, within a budget of the device's memory.

On the CPU a set is a file that is mapped into memory, so only the number is limited. On a GPU the sets together take
at most a share of the card, which several workers may share; one that is larger stays on the host, and each training
brings it there for itself.
"""

from collections import OrderedDict
from pathlib import Path

import torch

from nas_proxy.data.images import ImageSet

MOST = 16
SHARE_OF_CARD = 1 / 32


class SetCache:
    """Sets by file and device, the one used last at the end. budget: bytes on a GPU; None for a share of the card."""

    def __init__(self, budget: int | None = None) -> None:
        self._budget = budget
        self._sets: OrderedDict[tuple[Path, int, str], ImageSet] = OrderedDict()

    def get(self, path: Path, device: str) -> ImageSet:
        """Return the images of a file as networks train on them, on the device if there is room, else on the host."""
        key = path, path.stat().st_mtime_ns, device  # a file that is written again is another file
        if key not in self._sets:
            images = ImageSet.load(path).unpacked()
            self._sets[key] = images.to(device) if self._fits(images, device) else images
        self._sets.move_to_end(key)
        self._shrink(device)
        return self._sets[key]

    def _fits(self, images: ImageSet, device: str) -> bool:
        return device == "cpu" or images.stored_bytes <= self._bytes(device)

    def _shrink(self, device: str) -> None:
        while len(self._sets) > MOST or (device != "cpu" and self._taken(device) > self._bytes(device)):
            self._sets.popitem(last=False)

    def _taken(self, device: str) -> int:
        """Return the bytes of all sets on a device."""
        place = torch.device(device)
        return sum(images.stored_bytes for images in self._sets.values() if images.labels.device.type == place.type)

    def _bytes(self, device: str) -> int:
        if self._budget is not None:
            return self._budget
        return int(SHARE_OF_CARD * torch.cuda.get_device_properties(device).total_memory)
