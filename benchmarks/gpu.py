"""Everything that only a GPU can tell, in one command of under nine minutes on one H100.

Each part is a process of its own with a limit of time, so one that fails or hangs costs its own part alone. Results are
JSON, one object a line, written as they come; at the end follows what to paste into `benchmarks/README.md`.

    python benchmarks/gpu.py --out gpu.jsonl
    python benchmarks/gpu.py --device cpu --out tiny.jsonl      # tries the command where there is no GPU: tiny sizes

Parts: the tests marked `gpu`; a condensation step at 10 and 50 images a class beside the published loop and the floors;
its kernels, and the share of the time in which the GPU is busy; candidates an hour with 1, 4 and 8 at a time, and with
4 under NVIDIA's multi-process service where that is installed; memory.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Steps that are profiled, after as many that are not.
PROFILED = 10
AT_A_TIME, SERVED = (1, 4, 8), 4
# Processes that share a GPU take turns; with NVIDIA's multi-process service, where it can be started, they do not.
SERVICE = "nvidia-cuda-mps-control"
WITH_SERVICE = f"""
export CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d) CUDA_MPS_LOG_DIRECTORY=$(mktemp -d)
{SERVICE} -d || exit
trap 'echo quit | {SERVICE}' EXIT
timeout 40 "$@"
"""


@dataclass(frozen=True)
class Part:
    """A command, its limit in seconds, and whether its last line is a JSON object."""

    name: str
    command: tuple[str, ...]
    seconds: float
    is_json: bool = True


def parts(device: str) -> Iterator[Part]:
    tiny = device == "cpu"
    python = sys.executable
    pytest = (python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--timeout=100")
    marked = [str(path) for path in sorted((HERE.parent / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    yield Part("tests", (*pytest, *marked), 150, is_json=False)
    for ipc in (1,) if tiny else (10, 50):
        sized = ("--repeats", "1", "--eager") if tiny else ("--repeats", "20")
        command = (python, str(HERE / "condense.py"), "--device", device, "--ipc", str(ipc), *sized)
        yield Part(f"condense-{ipc}", command, 70)
    yield Part("profile", (python, __file__, "--device", device, "--part", "profile"), 45)
    yield Part("memory", (python, __file__, "--device", device, "--part", "memory"), 30)
    for count in (1,) if tiny else AT_A_TIME:
        sized = ("--count", "1", "--repeats", "1") if tiny else ("--count", "8", "--repeats", "1")
        command = (python, str(HERE / "candidates.py"), "--device", device, "--workers", str(count), *sized)
        yield Part(f"candidates-{count}", command, 43)
        if count == SERVED and shutil.which(SERVICE) is not None:
            yield Part(f"candidates-{count}-mps", ("bash", "-c", WITH_SERVICE, SERVICE, *command), 45)


def done(part: Part) -> dict[str, Any]:
    """Perform a part and return its result, or what became of it."""
    start = time.perf_counter()
    result: dict[str, Any] = {}
    try:
        process = subprocess.run(part.command, capture_output=True, text=True, timeout=part.seconds, check=False)
        lines = process.stdout.strip().splitlines() or [""]
        if process.returncode == 0 and part.is_json:
            result = json.loads(lines[-1])
        else:
            result = {"said": lines[-25:] if process.returncode else lines[-1], "errors": process.stderr[-2000:]}
        result["exit_code"] = process.returncode
    except subprocess.TimeoutExpired:
        result["error"] = f"took longer than {part.seconds:g} s"
    except json.JSONDecodeError as error:
        result["error"] = f"its last line is no JSON: {error}"
    return {"part": part.name, "wall_seconds": round(time.perf_counter() - start, 1), **result}


def profile(device_name: str) -> dict[str, Any]:
    """Return the kernels of a step of condensation, and the share of the time in which one is running."""
    import torch
    from torch.profiler import ProfilerActivity

    step = _condensation(device_name)
    on_gpu = device_name == "cuda"
    for index in range(PROFILED):
        step(index)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        for index in range(PROFILED, 2 * PROFILED):
            step(index)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    kernels = [event for event in profiler.events() or () if str(event.device_type).endswith("CUDA")]
    busy = sum(event.device_time_total for event in kernels) / 1e6
    names: dict[str, float] = {}
    for event in kernels:
        names[event.name[:60]] = names.get(event.name[:60], 0) + event.device_time_total / 1e3 / PROFILED
    longest = sorted(names.items(), key=lambda item: -item[1])[:12]
    return {
        "kernels_a_step": len(kernels) / PROFILED,
        "milliseconds_a_step_profiled": round(1e3 * seconds / PROFILED, 3),
        "busy_share": round(busy / seconds, 3),
        "longest_milliseconds": {name: round(value, 4) for name, value in longest},
    }


def memory(device_name: str) -> dict[str, Any]:
    """Return the most memory that steps of condensation take beyond the images, compiled and not."""
    import torch

    from condensation_estimate import watched

    step = _condensation(device_name)
    with watched(torch.device(device_name)) as peak:
        for index in range(3):
            step(index)
    return {"peak_bytes_eager": peak.bytes}


def _condensation(device_name: str) -> Any:
    """Return a step of `nas_proxy.make_proxy` that is not compiled and does not wait."""
    import torch

    import condense
    from nas_proxy.condensation import step as condensation
    from nas_proxy.condensation.distributed import ALONE
    from nas_proxy.condensation.recipe import Condensation
    from nas_proxy.data.images import from_raw
    from nas_proxy.seeds import torch_generator

    tiny = device_name == "cpu"
    recipe = Condensation(steps=1, **({"images_per_class": 1, "real_batch": 8, "width": 16} if tiny else {}))
    labels = torch.arange(condense.CLASSES).repeat_interleave(condense.STORED)
    size = (len(labels), 3, condense.SIZE, condense.SIZE)
    raw = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch_generator(0, "pixels"))
    data = from_raw(raw, labels, tuple(map(str, range(condense.CLASSES)))).to(device_name)
    task = condensation.Task(data, condensation.members_of(data), recipe, 0, torch.device(device_name), ALONE)
    state, networks = condensation.initial(task), condensation.open_networks(task, None, (), print)

    def step(index: int) -> None:
        state.step = index
        condensation.take_step(state, task, networks)

    return step


def pasted(results: list[dict[str, Any]]) -> str:
    """Return the table for `benchmarks/README.md`."""
    return "\n".join(["| what | result |", "| --- | --- |", *(f"| {one['part']} | {_told(one)} |" for one in results)])


def _told(found: dict[str, Any]) -> str:
    """Return a part's result in a cell of a table."""
    name = found["part"]
    if found.get("exit_code", 1) != 0:
        return f"failed: {found.get('error') or 'see the JSON'}"
    if name.startswith("condense"):
        floor, (low, high) = found["floors"], found["ratio_range"]
        ours, theirs = (1e3 * found[f"{name}_seconds"] for name in ("engine", "baseline"))
        arithmetic, moved = (1e3 * floor[f"{name}_seconds"] for name in ("arithmetic", "bytes"))
        return (
            f"{ours:.3g} ms a step, published loop {theirs:.3g} ms, ratio {found['ratio']:.3g} ({low:.3g} to "
            f"{high:.3g}, n = {found['n']}); floors {arithmetic:.3g} ms of arithmetic, {moved:.3g} ms of bytes"
        )
    if name.startswith("candidates"):
        return f"{3600 / found['engine_seconds']:.4g} candidates an hour, ratio {found['ratio']:.3g}"
    rest = {key: value for key, value in found.items() if key not in {"part", "exit_code", "wall_seconds", "errors"}}
    return json.dumps(rest, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--only", default="", help="parts whose names begin so")
    parser.add_argument("--part", choices=("profile", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps({"profile": profile, "memory": memory}[options.part](options.device)))
        return
    results = []
    with options.out.open("w", encoding="utf-8") as out:
        for part in parts(options.device):
            if part.name.startswith(options.only):
                # A CPU that others use takes longer than the GPU that the limits are for.
                results.append(done(replace(part, seconds=part.seconds * (5 if options.device == "cpu" else 1))))
                print(json.dumps(results[-1]), file=out, flush=True)
                print(f"{part.name}: {results[-1]['wall_seconds']} s", flush=True)
    print(pasted(results))


if __name__ == "__main__":
    main()
