"""Which files of a folder are images of which part and class, and which are left out.

In: DIR with `train/<class>/`, `test/<class>/` and optionally `val/<class>/`, or with `<class>/` alone. Parts are
known in any case and by their other usual names. Guarantees: nothing is decoded; names of classes are compared in one
form of Unicode; hidden files are passed over, and every other file that is no image is counted and named.
"""

import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from nas_proxy.data.decoding import SUFFIXES
from nas_proxy.errors import DataError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}
# Files that are named in one sentence.
NAMED = 5


@dataclass
class Listing:
    """The class folders and image files of each part, as they are called on the disk, and what is left out, and why."""

    root: Path
    folders: dict[str, Path] = field(default_factory=dict)
    files: dict[str, dict[str, tuple[Path, tuple[str, ...]]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def remark(self) -> str | None:
        """Return how many files are left out, and the first of them; None for none."""
        if not self.left_out:
            return None
        more = len(self.left_out) - NAMED
        named = ", ".join(self.left_out[:NAMED]) + (f" and {more} more" if more > 0 else "")
        count = len(self.left_out)
        are = "file is" if count == 1 else "files are"
        return f"{count} {are} left out of {self.root}: {named}"


def list_folder(root: Path) -> Listing:
    """Return what a folder holds. Raises DataError for a layout that cannot be used."""
    listing = Listing(root)
    listing.folders = _part_folders(root, listing)
    for part, folder in listing.folders.items():
        listing.files[part] = _class_files(folder, listing)
    return listing


def shown(name: str) -> str:
    """Return a name from outside in one form of Unicode, without what would change a terminal or be no text."""
    name = unicodedata.normalize("NFC", name)
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _part_folders(root: Path, listing: Listing) -> dict[str, Path]:
    below = _list(root, listing, folders=True)
    trains = [name for name in below if PARTS.get(name.casefold()) == "train"]
    # A class may be called Train as well: then its folder holds images.
    if not all(_list(root / name, Listing(root), folders=True) for name in trains or below):
        return {"train": root}
    if not trains:
        if below:
            raise DataError(_too_deep(root, below))
        return {"train": root}
    parts: dict[str, Path] = {}
    for name in below:
        part = PARTS.get(name.casefold())
        if part is None:
            raise DataError(f"{root} has the folder {name!r} beside {trains[0]!r}; known: {', '.join(PARTS)}")
        if part in parts:
            raise DataError(f"{root} has both {parts[part].name!r} and {name!r}; keep one of them")
        parts[part] = root / name
    _other_files(root, listing, image_files=True)
    return {part: parts[part] for part in sorted(parts, key=lambda part: part != "train")}


def _too_deep(root: Path, below: list[str]) -> str:
    """Return what to do where every folder of `root` holds folders, none of which is called train."""
    if len(below) == 1:
        return f"{root} holds the folder {below[0]!r} alone, and that holds folders; give folder:{root / below[0]}"
    named = ", ".join(below[:NAMED]) + (", …" if len(below) > NAMED else "")
    return (
        f"every folder of {root} ({named}) holds folders, and none is called train; if they are parts, call them "
        "train, test and val, each with a folder of image files for each class; if classes, put the image files "
        "directly into their folders"
    )


def _class_files(folder: Path, listing: Listing) -> dict[str, tuple[Path, tuple[str, ...]]]:
    classes = _list(folder, listing, folders=True)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected DIR/<class>/<image files>, or "
            "DIR/train/<class>/<image files> and DIR/test/<class>/<image files>"
        )
    _other_files(folder, listing, image_files=True)
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for name in classes:
        if shown(name) in found:
            raise DataError(f"{folder} has two folders for the class {shown(name)!r}; put their images into one")
        found[shown(name)] = folder / name, _image_files(folder / name, listing)
    return dict(sorted(found.items()))


def _image_files(folder: Path, listing: Listing) -> tuple[str, ...]:
    deeper = _list(folder, listing, folders=True)
    if deeper:
        raise DataError(
            f"the class folder {folder} has the folder {deeper[0]!r} in it; "
            "put the image files directly into their class folder"
        )
    files = tuple(name for name in _list(folder, listing, folders=False) if name.lower().endswith(SUFFIXES))
    if not files:
        raise DataError(
            f"the class folder {folder} has no image files ({', '.join(SUFFIXES[:6])} and others that Pillow reads)"
        )
    _other_files(folder, listing, image_files=False)
    return files


def _other_files(folder: Path, listing: Listing, *, image_files: bool) -> None:
    """Note what is left out in a folder. image_files: whether images are, too, as beside the folders of classes."""
    for name in _list(folder, listing, folders=False):
        is_image = name.lower().endswith(SUFFIXES)
        if image_files or not is_image:
            where = shown(str((folder / name).relative_to(listing.root)))
            listing.left_out.append(f"{where} ({'in no class folder' if is_image else 'no image by its name'})")


def _list(folder: Path, listing: Listing, *, folders: bool) -> list[str]:
    """Return the names of the folders, or files, in `folder`; hidden ones are left out, links are followed."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            names = [entry.name for entry in visible if (entry.is_dir() if folders else entry.is_file())]
            if not folders:
                odd = sorted(entry.name for entry in visible if not entry.is_dir() and not entry.is_file())
                where = [shown(str((folder / name).relative_to(listing.root))) for name in odd]
                noted = [f"{name} (a link to nothing, or no file)" for name in where]
                listing.left_out += [note for note in noted if note not in listing.left_out]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from None
    return sorted(names)
