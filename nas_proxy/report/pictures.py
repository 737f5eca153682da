"""The condensed images and real ones in a page: PNG files in, what is shown of them out.

A picture that would make the page large is shown with fewer pixels; the same file gives the same bytes.
"""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

# How much larger than its pixels a picture is shown, and how many bytes one may have.
MOST_ZOOM, MOST_BYTES = 2, 120_000
# Pixels across, of all pictures together, up to which they are enlarged.
WIDE = 1000


class Picture(NamedTuple):
    """A PNG file and its width in pixels."""

    content: bytes
    width: int


def read_picture(path: Path, damaged: list[tuple[str, str]]) -> Picture | None:
    """Return a picture; None where there is none, or one that cannot be read, which is told in `damaged`."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
            return _small(content, image)
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        damaged.append((f"{path.name} cannot be read ({type(error).__name__})", "condense"))
        return None


def _small(content: bytes, image: Image.Image) -> Picture:
    """Return a picture of at most `MOST_BYTES`, with fewer pixels where need be."""
    while len(content) > MOST_BYTES and min(image.size) > 1:
        factor = max(0.5, 0.95 * (MOST_BYTES / len(content)) ** 0.5)
        image = image.convert("RGB").resize([max(1, int(side * factor)) for side in image.size], Image.Resampling.BOX)
        written = io.BytesIO()
        image.save(written, format="PNG")
        content = written.getvalue()
    return Picture(content, image.width)


def shown(condensed: Picture | None, real: Picture | None) -> list[dict[str, Any]]:
    """Return the condensed images, and real ones to stand beside them where there are some: text, width, data."""
    if condensed is None:
        return []
    found = [("Condensed", "The condensed images, in a grid", condensed)]
    if real is not None:
        found.append(("Real", "As many real images of the same classes, in a grid", real))
    wide = sum(picture.width for _, _, picture in found)
    zoom = max(1, min(MOST_ZOOM, WIDE // max(1, wide)))
    return [
        {"title": title, "alt": alt, "width": zoom * width, "data": base64.b64encode(content).decode()}
        for title, alt, (content, width) in found
    ]
