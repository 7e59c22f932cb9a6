"""Alembic's migrations of the request database; run by `depth_core.serving.database.migrate`."""
