"""`nas-proxy predict`: what a final network takes images for."""

from pathlib import Path
from typing import Annotated

import typer

from nas_proxy.cli.options import Json
from nas_proxy.cli.printing import at_work, print_result
from nas_proxy.errors import RunFolderError

Folder = Annotated[
    Path, typer.Argument(help="The run folder, or the folder of a final network.", metavar="RUN", show_default=False)
]
Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE…", show_default=False)]


def predict_command(
    run: Folder,
    images: Images,
    top: Annotated[int, typer.Option(help="Classes that are printed, the most probable first.", min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Print what the final network takes images for, and how probable that is."""
    folder = next((f for f in (run / "final", run) if (f / "architecture.json").is_file()), None)
    if folder is None:
        raise RunFolderError(f"{run} holds no final network; make one with: nas-proxy final {run}")
    with at_work():
        from nas_proxy.pipeline.load_final import load_final

        found = load_final(folder).predict([str(image) for image in images])
    told = [{"image": str(image), "classes": each} for image, each in zip(images, found, strict=True)]
    lines = [
        f"{image}: " + ", ".join(f"{name} {chance:.1%}" for name, chance in list(each.items())[:top])
        for image, each in zip(images, found, strict=True)
    ]
    print_result({"predictions": told}, "\n".join(lines), as_json=as_json)
