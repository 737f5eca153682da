"""The dashboard of a run for several objectives with a limit on latency, in a real browser."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from conftest import blobs, write_space
from nas_proxy.dashboard.server import application, serving
from nas_proxy.pipeline import work
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.measured import Latency
from nas_proxy.storage.read_only import open_studies

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def searched(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    del browser  # where there is none, nothing is trained
    folder = tmp_path_factory.mktemp("several")
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    given: dict[str, Any] = {
        "dataset": f"npz:{folder / 'blobs.npz'}",
        "space": str(write_space(folder / "tiny.py", (1, 2, 4, 8, 16))),
        **{"trials": 8, "truth": 5, "judge": 5, "workers": 1, "device": "cpu"},
        **{"objective": ["accuracy", "params", "latency"], "max_latency_ms": 10.0, "max_params": 10_000},
        "condense": {"images_per_class": 2, "steps": 2, "width": 8},
        "proxy_training": {"epochs": 4, "batch_size": 6},
    }

    def by_width(problem: Any, executor: Any, architecture: Any) -> Latency:
        return Latency(float(architecture["width"]), 0.5, 20.0, 9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "timed", by_width)
        yield run_all(resolve(given), folder / "several", names=("condense", "search"))


@pytest.fixture
def page(browser: Any, searched: RunFolder) -> Iterator[Any]:
    """A page whose `wrong` collects errors."""
    with serving(application(searched.path), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        address = f"http://127.0.0.1:{server.port}"
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, base_url=address)
        page.wrong = []
        page.on("console", lambda message: message.type in ("error", "warning") and page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        yield page
        page.close()


def id_of(run: RunFolder, name: str) -> int:
    return open_studies(run.path).get_study_id_from_name(name)


def test_the_front_in_the_dashboard(page: Any, searched: RunFolder, screenshot: Callable[[Any, str], Path]) -> None:
    page.goto(f"/dashboard/studies/{id_of(searched, 'proxy')}")
    ours = page.locator('[id="user-defined-plot:pareto"]')
    ours.locator(".points path").first.wait_for()
    assert ours.locator(".cartesianlayer .subplot").count() == 2
    ours.locator(".scatterlayer .trace").last.locator(".points path").last.hover(force=True)
    ours.locator(".hoverlayer text").filter(has_text="on the front").first.wait_for()
    page.mouse.move(0, 0)
    # Optuna's dashboard draws its own, since the study has several directions.
    own = page.locator('[id="graph-pareto-front"]')
    own.locator(".points path, .gl-container").first.wait_for()
    screenshot(page, "dashboard-pareto")
    page.goto(f"/dashboard/studies/{id_of(searched, 'proxy')}/note")
    page.get_by_text("validation accuracy, parameters, latency").first.wait_for()
    page.get_by_text("max_params 10,000, max_latency_ms 10").wait_for()
    assert page.wrong == []


def _width(trial: Any) -> str:
    return str(next(p["param_external_value"] for p in trial["params"] if p["name"] == "width"))


def test_what_is_too_slow_is_infeasible(page: Any, searched: RunFolder, screenshot: Callable[[Any, str], Path]) -> None:
    page.goto("/")
    page.get_by_text("Latency · several").wait_for()
    number = id_of(searched, "latency")
    told = page.request.get(f"/api/studies/{number}").json()["trials"]
    slow = [trial for trial in told if trial["constraints"] != [] and trial["constraints"][0] > 0]
    assert {_width(trial) for trial in slow} == {"16"}
    page.goto(f"/dashboard/studies/{number}")
    page.get_by_text("Infeasible", exact=True).first.wait_for()
    screenshot(page, "dashboard-infeasible")
    proxy = open_studies(searched.path).get_all_trials(id_of(searched, "proxy"), states=(TrialState.COMPLETE,))
    assert all(len(trial.constraints) == 2 and max(trial.constraints.values()) <= 0 for trial in proxy)
    assert page.wrong == []
