"""What a run did, as events for live_replay.py: a run folder in, a line of JSON for each piece of work out.

    python benchmarks/live_events.py RUN --out FOLDER/1/events.jsonl --threads 2
    python benchmarks/live_replay.py --rows ROWS --arms random,tpe,events:ours=FOLDER

Everything that took time by the run's own records, in the order in which a run does it: condensing (its seconds by the
clock times `--threads`, as it computes with all of them), the scores of the pool, each training on the proxy, each full
one, and what only judges. Of those that a search sees the best by validation is the pick so far; from the last of them
on it is that of `search.json`, the one that the run hands out. The last line on stdout is one JSON object.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna

import nas_proxy
from nas_proxy.data.images import ImageSet
from nas_proxy.files import write_text
from nas_proxy.signals.score_file import NAME as SCORES


def events_of(folder: Path, threads: int) -> Iterator[dict[str, Any]]:
    """Yield the events of a finished run."""
    pick = json.loads((folder / "search.json").read_text(encoding="utf-8"))["pick"]
    made = ImageSet.load_metadata(folder / "proxy.safetensors")
    yield {"key": None, "fidelity": "condense", "seconds": threads * float(str(made["seconds"]))}
    _, *scores = (folder / SCORES).read_text(encoding="utf-8").splitlines()
    yield {"key": None, "fidelity": "scores", "seconds": sum(json.loads(line).get("seconds", 0.0) for line in scores)}
    studies = dict(nas_proxy.open(folder).studies)
    for trial in _trials(studies.pop("proxy")):
        yield _event(trial, "proxy")
    full = _trials(studies.pop("truth"))
    searched = [trial for trial in full if trial.user_attrs["draw"] == 0]
    for trial in searched:
        seen = {"score": trial.user_attrs.get("validation", 0.0)}
        yield _event(trial, "full") | seen | ({"pick": pick} if trial is searched[-1] else {})
    further = [trial for trial in full if trial.user_attrs["draw"] > 0]
    for trial in [*further, *(trial for study in studies.values() for trial in _trials(study))]:
        yield _event(trial, "judging") | {"pick": pick}


def _trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return what was trained, in the order in which it ended."""
    ended = [trial for trial in study.trials if "seconds" in trial.user_attrs]
    return sorted(ended, key=lambda trial: trial.datetime_complete or trial.datetime_start)  # type: ignore[arg-type,return-value]


def _event(trial: optuna.trial.FrozenTrial, fidelity: str) -> dict[str, Any]:
    return {"key": trial.user_attrs["key"], "fidelity": fidelity, "seconds": trial.user_attrs["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="file for the events")
    parser.add_argument("--threads", type=int, default=1, help="threads that condensing computed with")
    options = parser.parse_args()
    events = list(events_of(options.run, options.threads))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, "".join(json.dumps(event) + "\n" for event in events))
    seconds: dict[str, float] = {}
    for event in events:
        seconds[event["fidelity"]] = seconds.get(event["fidelity"], 0.0) + event["seconds"]
    told = {name: round(value, 1) for name, value in seconds.items()}
    print(json.dumps({"benchmark": "live_events", "events": len(events), "seconds": told}))


if __name__ == "__main__":
    main()
