"""Where a run keeps its trainings: a SQLite file of its own, or a PostgreSQL database that others can read too."""
