"""What the coordinating process and a worker say to each other: frames of bytes through a pipe, mostly pickles.

Both ends are this program, on one machine and of one user, so unpickling is safe.
"""

import pickle
import struct
from typing import IO, Protocol

# What a worker is told before its first job with a limit on memory, and what it says when a job has arrived.
PREPARE, BEGUN = b"prepare", "begun"


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, fewer where there are no more."""


def write_message(stream: IO[bytes], message: object) -> None:
    """Write one pickle as a frame."""
    write_frame(stream, pickle.dumps(message))


def read_message(stream: Readable) -> object:
    """Read what `write_message` wrote. Raises EOFError when the other end is gone."""
    return pickle.loads(read_frame(stream))


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write bytes with their number before them."""
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def read_frame(stream: Readable) -> bytes:
    """Read what `write_frame` wrote. Raises EOFError when the other end is gone."""
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    size = struct.unpack("<Q", header)[0]
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
