"""A trained network as files that others can load: weights, a PyTorch program, an ONNX program, and how to.

In: a trained network, and the scale and offset with which its images decode. Out: files.
Guarantees: the programs take images as files hold them, uint8 (n, channels, height, width) from 0 to 255 with any
n, and return logits, float32 (n, classes): scale and offset are inside, so that nobody can forget them. A program
that does not give the network's own logits on real images is not written (the ONNX one is tried where onnxruntime is
installed).
"""

import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import NasProxyError
from nas_proxy.files import atomic_path, write_text
from nas_proxy.pipeline.deployed import Deployed
from nas_proxy.spaces.latency import timed_passes
from nas_proxy.spaces.measured import Latency

ONNX_PACKAGES = ("onnx", "onnxscript")
INSTALL_LINE = "pip install onnx onnxscript"
# How far an exported program's logits may be from the network's, relative and absolute.
TOLERANCE = 1e-3
_T = TypeVar("_T")


class ExportError(NasProxyError):
    """A network that cannot be written as a program, with the reason in a sentence."""


def write_program(network: Deployed, images: Tensor, path: Path) -> None:
    """Write `torch.export`'s program for any number of images; raises ExportError where that cannot be.

    images: uint8, (n, c, h, w), two or more real ones, on which the program is compared with the network.
    """
    program = _exported(network, images)
    content = io.BytesIO()
    _explained(lambda: torch.export.save(program, content))
    content.seek(0)
    _compare(_explained(lambda: torch.export.load(content).module()), network, images)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getvalue())


def write_onnx(network: Deployed, images: Tensor, path: Path) -> None:
    """Write an ONNX program with the input `images` and the output `logits`; raises ExportError as above."""
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise ExportError(f"it needs {' and '.join(missing)}: {INSTALL_LINE}")
    program = _exported(network, images)
    made = _explained(
        lambda: torch.onnx.export(
            program, (), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    )
    assert made is not None
    with atomic_path(path) as temporary:
        made.save(temporary, external_data=False)
        if find_spec("onnxruntime") is not None:
            _explained(lambda: _compare(_onnx_function(temporary), network, images))


def onnx_latency(path: Path, shape: DataShape) -> Latency | None:
    """Return how long ONNX Runtime takes for one image on one thread; None where it is not installed."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = {"images": torch.zeros(1, *shape[:3], dtype=torch.uint8).numpy()}
    return timed_passes(lambda: session.run(None, image))


def _exported(network: Deployed, images: Tensor) -> torch.export.ExportedProgram:
    any_number = ({0: torch.export.Dim("batch")},)
    return _explained(lambda: torch.export.export(network.eval(), (images[:2],), dynamic_shapes=any_number))


def _explained(act: Callable[[], _T]) -> _T:
    """Do what a user's network may refuse in any way; PyTorch's own warnings are not for the user."""
    logger = logging.getLogger("torch")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act()
    except ExportError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"{type(error).__name__}: {first}".removesuffix(": ")) from error
    finally:
        logger.setLevel(level)


def _onnx_function(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def _compare(program: Callable[[Tensor], Tensor], network: Deployed, images: Tensor) -> None:
    for count in (1, len(images)):
        ours, theirs = network(images[:count]), program(images[:count])
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
            raise ExportError("the program does not give the network's logits; it may depend on the number of images")


def write_loader(told: Mapping[str, object], shape: Sequence[int], classes: Sequence[str], path: Path) -> None:
    """Write `load.py`, which loads each of the files, as an example to copy from."""
    text = LOADER.format(
        key=told["key"],
        accuracy=told["final_accuracy"],
        shape=", ".join(map(str, shape)),
        classes=list(classes),
        size=len(classes),
    )
    write_text(path, text)


LOADER = '''# Three ways to load {key!r}, final accuracy {accuracy:.4f}.
"""Images go in as uint8, (n, {shape}), 0 to 255; logits come out, (n, {size})."""

from importlib.util import find_spec
from pathlib import Path

import torch

HERE = Path(__file__).parent
CLASSES = {classes!r}
images = torch.zeros(2, {shape}, dtype=torch.uint8)


def show(name, logits):
    print(name, [CLASSES[i] for i in torch.as_tensor(logits).argmax(1)])


if (HERE / "model.pt2").exists():  # PyTorch alone
    program = torch.export.load(HERE / "model.pt2").module()
    show("model.pt2:", program(images))

if (HERE / "model.onnx").exists() and find_spec("onnxruntime"):  # pip install onnxruntime
    import onnxruntime

    session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
    show("model.onnx:", session.run(None, {{"images": images.numpy()}})[0])

if find_spec("nas_proxy"):  # the network itself, to go on training; needs the search space as well
    import nas_proxy

    network = nas_proxy.load_final(HERE)
    show("model.safetensors:", network(images))
'''
