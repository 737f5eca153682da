"""A split that keeps groups together: all images of one patient, plant or camera are on one side of it.

In: labels, groups, and the share of each class that each part is to have. Out: the part of each image. Guarantees: no
group is in two parts; the result depends on the labels, the groups, the shares and the seed only. Greedy: groups come
at random, large ones first, each to the part that lacks most of what it holds; so shares are met about. Where that
leaves a part without a class, groups of rare classes are placed first, at random, until every part has every class.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from nas_proxy.errors import DataError
from nas_proxy.seeds import torch_generator

# Random beginnings that are tried where the greedy split leaves a part without a class.
ATTEMPTS = 100


def grouped(
    labels: Tensor, classes: tuple[str, ...], groups: Tensor, shares: Mapping[str, float], seed: int
) -> dict[str, Tensor]:
    """Return the indices of each part, sorted. labels, groups: int64, (n,). shares: of every class, 1 in sum.

    Raises DataError where no split is found that has an image of every class in each part.
    """
    counts = torch.zeros(int(groups.max()) + 1, len(classes))
    counts.index_put_((groups, labels), torch.ones(len(labels)), accumulate=True)
    part_of = _greedy(counts, shares, seed, {})
    if _lacks(counts, part_of, len(shares)):
        held = (counts > 0).sum(0)
        if int(held.min()) < len(shares):
            rarest, few = classes[int(held.argmin())], int(held.min())
            raise DataError(
                f"class {rarest!r} has images of {few} {'group' if few == 1 else 'groups'}, too few for "
                f"one in each of {', '.join(shares)}; take larger parts, or groups that are smaller"
            )
        drawn = (_placed(counts > 0, len(shares), seed, attempt) for attempt in range(ATTEMPTS))
        placed = next((each for each in drawn if each is not None), None)
        if placed is None:
            raise DataError(
                f"no split was found that keeps groups together and has every class in each of {', '.join(shares)}; "
                "take larger parts, or groups that are smaller"
            )
        part_of = _greedy(counts, shares, seed, placed)
    return {name: torch.nonzero(part_of[groups] == part).flatten() for part, name in enumerate(shares)}


def _greedy(counts: Tensor, shares: Mapping[str, float], seed: int, placed: Mapping[int, int]) -> Tensor:
    """Return the part of each group: int64, (groups,). placed: the part of those that have one already."""
    order = torch.randperm(len(counts), generator=torch_generator(seed, "split", "groups"))
    order = order[counts[order].sum(1).argsort(descending=True, stable=True)]
    total = counts.sum(0).clamp_min(1)
    lacking = torch.stack([share * total for share in shares.values()])
    part_of = torch.empty(len(counts), dtype=torch.int64)
    for group, part in placed.items():
        part_of[group] = part
        lacking[part] -= counts[group]
    for group in order.tolist():
        if group not in placed:
            # Shares of classes, so that a rare class counts as much as a common one.
            gain = (lacking / total * counts[group] / total).sum(1)
            part_of[group] = part = int(gain.argmax())
            lacking[part] -= counts[group]
    return part_of


def _lacks(counts: Tensor, part_of: Tensor, parts: int) -> bool:
    """Whether a part has no image of a class."""
    return any(bool((counts[part_of == part].sum(0) == 0).any()) for part in range(parts))


def _placed(holds: Tensor, parts: int, seed: int, attempt: int) -> dict[int, int] | None:
    """Return groups by which every part has every class, and their parts, drawn at random; None where that fails.

    holds: bool, (groups, classes). Classes that few groups hold come first.
    """
    generator = torch_generator(seed, "split", "groups", "placed", attempt)
    found: dict[int, int] = {}
    has = torch.zeros(parts, holds.shape[1], dtype=torch.bool)
    for label in holds.sum(0).argsort(stable=True).tolist():
        for part in torch.randperm(parts, generator=generator).tolist():
            if has[part, label]:
                continue
            free = [group for group in torch.nonzero(holds[:, label]).flatten().tolist() if group not in found]
            if not free:
                return None
            group = free[int(torch.randint(len(free), (), generator=generator))]
            found[group] = part
            has[part] |= holds[group]
    return found
