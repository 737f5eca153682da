"""What many tests need: tiny images, a tiny space, a folder of images, a browser, and a database."""

import gc
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest
import torch

from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.pipeline import work
from nas_proxy.pipeline.work import open_executor
from nas_proxy.runs.settings import RunConfig
from nas_proxy.seeds import torch_generator
from nas_proxy.training.executor import InlineExecutor
from postgres import Server, find_programs


def pytest_configure():
    """Let Ctrl-C end what tests start, also where it would be ignored: in the background job of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Turn a skip into a failure for the markers named in NAS_PROXY_NO_SKIP, for machines that have what they need."""
    report = yield
    wanted = [name for name in os.environ.get("NAS_PROXY_NO_SKIP", "").split(",") if name]
    if report.skipped and any(item.get_closest_marker(name) for name in wanted):
        report.outcome, report.longrepr = "failed", f"must not be skipped here: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class _Inline(InlineExecutor):
    """Does the work of any number of workers in this process, where starting one takes seconds."""

    def __init__(self, config: RunConfig, device: str) -> None:
        super().__init__()
        with open_executor(config, device) as wanted:  # which starts nothing yet
            self.workers, self.devices = wanted.count, wanted.devices


@pytest.fixture(scope="module", autouse=True)
def _inline(request):
    """Train in this process, but in modules that are marked `processes`: what those test is the processes."""
    with pytest.MonkeyPatch.context() as patch:
        if not any(mark.name == "processes" for mark in request.node.iter_markers()):
            patch.setattr(work, "open_executor", _Inline)
        yield


@pytest.fixture(autouse=True)
def _in_processes(request, monkeypatch):
    """Train in worker processes in single tests that are marked so."""
    if request.node.get_closest_marker("processes"):
        monkeypatch.setattr(work, "open_executor", open_executor)


def condense_until(step: int, real: ImageSet, recipe: Condensation, checkpoint: Path) -> None:
    """Condense with seed 0, and be cut off after a step."""

    class CutOffError(Exception):
        pass

    def progress(done: int, loss: float) -> None:
        if done == step:
            raise CutOffError

    with pytest.raises(CutOffError):
        make_proxy(real, recipe, 0, checkpoint=checkpoint, progress=progress)


def blobs(per_class: int = 12, classes: int = 3, channels: int = 1, size: int = 8, seed: int = 0) -> ImageSet:
    """Images whose class shows in where they are bright: learnable, but not at once."""
    draws = torch_generator(seed, "blobs")
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = torch.randint(0, 120, (len(labels), channels, size, size), generator=draws)
    for index, label in enumerate(labels.tolist()):
        images[index, :, label * size // classes : (label + 1) * size // classes] += 100
    return from_raw(images.to(torch.uint8), labels, tuple(f"class{c}" for c in range(classes)))


@pytest.fixture
def images() -> ImageSet:
    return blobs()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on the PATH")
    others = set(psutil.Process().children(recursive=True))
    with api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=program, args=arguments)
        started = set(psutil.Process().children(recursive=True)) - others
        yield running
        # Playwright waits for its driver without an end, and a driver has been seen that did not leave.
        end = Timer(30, end_all, [started])
        end.daemon = True
        end.start()
        with suppress(api.Error):
            running.close()
    collect_what_libraries_leave()


def collect_what_libraries_leave() -> None:
    """Collect sockets that a library left open, here: in a later test their warnings would be that test's failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def end_all(processes: set[psutil.Process]) -> None:
    """Kill what is left of some processes."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def screenshot() -> Callable[[Any, str], Path]:
    """Keep a picture of a page for a person's eye, in tests/screenshots/ or where NAS_PROXY_SCREENSHOTS says."""
    folder = Path(os.environ.get("NAS_PROXY_SCREENSHOTS") or Path(__file__).parent / "screenshots")

    def keep(page: Any, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        page.evaluate("scrollTo(0, 0)")  # or a bar that sticks to the top would stand in the middle of the picture
        page.screenshot(path=path, full_page=True)
        return path

    return keep


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of the tests' own, on a free port of this machine."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if (programs := find_programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    with Server(programs) as server:
        yield server


TINY_SPACE = """
from torch import nn

from nas_proxy import Choice, Space


def build(architecture, shape):
    width = architecture["width"]
    if width == 3:
        raise ValueError("three is not a width")
    pixels = shape.channels * shape.height * shape.width
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[architecture["act"]]
    layers = [nn.Flatten(), nn.Linear(pixels, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, shape.classes))


space = Space("tiny", Choice("width", WIDTHS) & Choice("act", ("relu", "tanh")), build)
"""


@pytest.fixture
def tiny_space(tmp_path: Path) -> Path:
    """A space of 14 architectures that train in milliseconds."""
    return write_space(tmp_path / "tiny.py", (1, 2, 4, 6, 8, 12, 16))


def write_space(path: Path, widths: tuple[int, ...]) -> Path:
    path.write_text(TINY_SPACE.replace("WIDTHS", repr(widths)))
    return path
