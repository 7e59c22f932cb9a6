"""Alembic's migrations of the request database; run by `depth_core.requests.database.migrate`."""
