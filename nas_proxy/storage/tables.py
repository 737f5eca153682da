"""Our own tables beside Optuna's in a PostgreSQL database: jobs, workers, and the bytes of artifacts.

`nas_proxy_jobs` has what Optuna lacks, a unique key: a row for each architecture (as a digest of its key) and draw of
each trained signal of each run.
"""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, LargeBinary, MetaData, Table, Text, func

METADATA = MetaData()
# state: waiting → taken → done → recorded.
JOBS = Table(
    "nas_proxy_jobs",
    METADATA,
    Column("run", Text, primary_key=True),
    Column("signal", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("draw", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("worker", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("result", Text),
)
WORKERS = Table(
    "nas_proxy_workers",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("devices", Text, nullable=False),
    Column("coordinates", Boolean, nullable=False),
    Column("heartbeat", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
ARTIFACTS = Table(
    "nas_proxy_artifacts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
