"""Artifacts of a run's studies: in a folder beside the SQLite file, or in the PostgreSQL database itself.

The store in the database follows Optuna's protocol for artifact stores, so that what is uploaded there reaches every
worker without a file system or a bucket that all machines share.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Engine, create_engine, delete, select
from sqlalchemy.dialects.postgresql import insert

from nas_proxy.errors import StorageError
from nas_proxy.storage.location import Database, connectable
from nas_proxy.storage.retry import Retry, engine_options
from nas_proxy.storage.tables import ARTIFACTS

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

# PostgreSQL takes values below 1 GB, as text of twice the length while they are sent.
MOST_BYTES = 400 * 2**20


class DatabaseStore:
    """Optuna's artifacts as rows of a table."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._patience = engine, Retry()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the bytes of an artifact. Raises Optuna's ArtifactNotFound."""

        def read() -> bytes | None:
            with self._engine.begin() as connection:
                found: bytes | None = connection.execute(
                    select(ARTIFACTS.c.content).where(ARTIFACTS.c.id == artifact_id)
                ).scalar()
                return found

        content = self._patience(read)
        if content is None:
            raise ArtifactNotFound(f"no artifact {artifact_id}")
        return io.BytesIO(content)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep the bytes of an artifact. Raises StorageError for too many."""
        content = content_body.read()
        if len(content) > MOST_BYTES:
            raise StorageError(
                f"the artifact of {len(content):,} bytes does not fit into the database (at most {MOST_BYTES:,}); "
                "give workers the condensed set with --proxy"
            )
        row = insert(ARTIFACTS).values(id=artifact_id, content=content).on_conflict_do_nothing()

        def keep() -> None:
            with self._engine.begin() as connection:
                connection.execute(row)

        self._patience(keep)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact that is there or is not."""

        def drop() -> None:
            with self._engine.begin() as connection:
                connection.execute(delete(ARTIFACTS).where(ARTIFACTS.c.id == artifact_id))

        self._patience(drop)


class FolderStore(FileSystemArtifactStore):
    """Optuna's artifacts as files; their folder is made with the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep the bytes of an artifact."""
        self._folder.mkdir(exist_ok=True)
        super().write(artifact_id, content_body)


def artifact_store(run: Path, place: Path | Database | None) -> "ArtifactStore":
    """Return the store of the artifacts of the run in the folder `run`; writing makes the folder of artifacts."""
    if isinstance(place, Database):
        return DatabaseStore(create_engine(connectable(place.url), **engine_options(kept=False)))
    return FolderStore(run / "artifacts")
