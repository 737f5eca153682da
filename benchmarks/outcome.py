"""The end of every benchmark: its result in, one JSON object with hardware and versions on the last line out."""

import json
from collections.abc import Mapping

from nas_proxy.environment import environment


def show(result: Mapping[str, object], device: str | None, packages: tuple[str, ...], **hardware: object) -> None:
    """Print a benchmark's result, with what it ran on and the versions of Python, nas_proxy and `packages`.

    device: "cpu" or "cuda", None where nothing was measured. hardware: more to be told of it, such as threads=2.
    """
    facts = environment(device or "cpu", 1)
    ran_on = {"hardware": {name: facts[name] for name in ("device", "cpu", "cores")} | hardware} if device else {}
    versions = {name: facts[name] for name in ("python", *packages, "nas_proxy")}
    print(json.dumps({**result, **ran_on, "versions": versions}))
