"""A split that keeps groups together: all images of one patient, plant or camera are on one side of it.

In: labels, groups, and the share of each class that each part is to have. Out: the part of each image. Guarantees: no
group is in two parts; the result depends on the labels, the groups, the shares and the seed only. Greedy: groups come
at random, large ones first, each to the part that lacks most of what it holds; so shares are met about.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nas_proxy.errors import DataError
from nas_proxy.seeds import torch_generator


def grouped(
    labels: Tensor, classes: tuple[str, ...], groups: Tensor, shares: Mapping[str, float], seed: int
) -> dict[str, Tensor]:
    """Return the indices of each part, sorted. labels, groups: int64, (n,). shares: of every class, 1 in sum.

    Raises DataError where a class comes out without an image in a part.
    """
    counts = torch.zeros(int(groups.max()) + 1, len(classes))
    counts.index_put_((groups, labels), torch.ones(len(labels)), accumulate=True)
    order = torch.randperm(len(counts), generator=torch_generator(seed, "split", "groups"))
    order = order[counts[order].sum(1).argsort(descending=True, stable=True)]
    total = counts.sum(0).clamp_min(1)
    lacking = torch.stack([share * total for share in shares.values()])
    part_of = torch.empty(len(counts), dtype=torch.int64)
    for group in order.tolist():
        # Shares of classes, so that a rare class counts as much as a common one.
        gain = (lacking / total * counts[group] / total).sum(1)
        part_of[group] = part = int(gain.argmax())
        lacking[part] -= counts[group]
    found = {name: torch.nonzero(part_of[groups] == part).flatten() for part, name in enumerate(shares)}
    for index in found.values():
        absent = torch.nonzero(torch.bincount(labels[index], minlength=len(classes)) == 0).flatten().tolist()
        if absent:
            held = len(torch.unique(groups[labels == absent[0]]))
            raise DataError(
                f"class {classes[absent[0]]!r} has images of {held} {'group' if held == 1 else 'groups'}, too few for "
                f"one in each of {', '.join(shares)}; take larger parts, or groups that are smaller"
            )
    return found
