"""What the network that a run picks is like, so that a page can draw it: its blocks, its size, how fast it answers."""

from nas_proxy.errors import UserError
from nas_proxy.pipeline.work import Work, timed
from nas_proxy.ranking.ranking import Pick, Ranking
from nas_proxy.spaces.blocks import blocks_of
from nas_proxy.spaces.measured import Latency
from nas_proxy.storage.records import Record


def network_of(work: Work, pick: Record) -> dict[str, object]:
    """Return what belongs to the pick in `ranking.json` beside its key and its accuracy."""
    shape = work.problem.shape
    return {
        "params": pick.params,
        "flops": pick.flops,
        **_latency(work, pick),
        "input": [shape.channels, shape.height, shape.width],
        "blocks": [block.as_json() for block in blocks_of(work.problem.space, pick.architecture, shape)],
    }


def _latency(work: Work, pick: Record) -> dict[str, object]:
    """Return the milliseconds of the pick: those that the run measured, or else measured here, once."""
    device, batch = work.problem.device.partition(":")[0], work.config.latency_batch
    told = {"latency_device": device, "latency_batch": batch}
    if pick.latency is not None:
        return {"latency_ms": pick.latency.ms, **told}
    known = _known(work)
    if known is not None and (known.key, known.latency_device, known.latency_batch) == (pick.key, device, batch):
        return {"latency_ms": known.latency_ms, **told}
    found = timed(work.problem, work.executor, pick.architecture)
    return {"latency_ms": found.ms, **told} if isinstance(found, Latency) else {"latency_ms": None}


def _known(work: Work) -> Pick | None:
    """Return the pick of the ranking that is in the folder already."""
    try:
        return Ranking.read(work.run / "ranking.json").pick
    except UserError:
        return None
