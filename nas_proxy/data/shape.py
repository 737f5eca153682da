"""What images look like to a network: no more than four numbers, so that whoever needs no more imports no more."""

from typing import NamedTuple


class DataShape(NamedTuple):
    """What a network must fit: `channels` × `height` × `width` in, `classes` logits out."""

    channels: int
    height: int
    width: int
    classes: int
