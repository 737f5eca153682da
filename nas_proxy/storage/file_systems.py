"""Network file systems under a folder: SQLite's locks and its write-ahead log are not reliable on them."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    [
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "smbfs",
            "lustre",
            "gpfs",
            "beegfs",
            "ceph",
            "glusterfs",
            "afs",
            "9p",
            "panfs",
        ),
        *("pvfs2", "ocfs2", "gfs2", "davfs", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
        *("fuse.beegfs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs", "fuse.dfuse"),
    ]
)


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the network file system that holds `path`, such as "nfs4"; None for a local one.

    None as well where the system does not tell, as outside Linux.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, best, found = path.resolve(), -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        point = Path(_unescaped(fields[4]))
        # The last of those mounted over each other is the one that is seen.
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), kinds[0]
    return found if found in NETWORK else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)


def warning(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the sentence for a SQLite file on a network file system; None for one on a local disk."""
    kind = network_file_system(path.parent, mounts)
    if kind is None:
        return None
    return (
        f"{path} lies on a network file system ({kind}), where SQLite can be slow and may lose trainings; "
        "put the run folder on a local disk, or give a PostgreSQL database with --storage"
    )
