"""The processes that serve requests are workers, each with a name."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_KEPT = ("device", "run_id", "host", "pid", "started_at", "heartbeat_at", "ended_at", "succeeded", "failed")


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "workers",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", time, nullable=False),
        sa.Column("heartbeat_at", time, nullable=False),
        sa.Column("ended_at", time),
        sa.Column("succeeded", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_heartbeat_at"), "workers", ["heartbeat_at"])
    kept = ", ".join(_KEPT)
    op.execute(f"INSERT INTO workers (name, {kept}) SELECT worker, {kept} FROM drains")
    op.drop_table("drains")
