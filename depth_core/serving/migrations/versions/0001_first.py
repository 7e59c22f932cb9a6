"""The first tables of single requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:

    op.create_table(
        "artworks",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("api_key_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("image_url", sa.Text, nullable=False),
        sa.Column("webhook", sa.Text),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("batch_key", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(length=128)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("duration", sa.Float, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("results", sa.JSON, nullable=False),
        sa.Column("error_kind", sa.String(length=32)),
        sa.Column("error_message", sa.Text),
        sa.Column("outcome", sa.JSON),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artworks")),
    )
    op.create_index(op.f("ix_artworks_api_key_id_created_at_id"), "artworks", ["api_key_id", "created_at", "id"], unique=False)
    op.create_index(op.f("ix_artworks_finished_at"), "artworks", ["finished_at"], unique=False)
    op.create_index(op.f("ix_artworks_status_created_at_id"), "artworks", ["status", "created_at", "id"], unique=False)
    op.create_index(op.f("ix_artworks_worker"), "artworks", ["worker"], unique=False)
    op.create_table(
        "drains",
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("succeeded", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_drains")),
    )
    op.create_index(op.f("ix_drains_heartbeat_at"), "drains", ["heartbeat_at"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("api_key_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("artwork_id", sa.Uuid, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "inbox_files",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("stamp", sa.Text, nullable=False),
        sa.Column("is_list", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox_files")),
        sa.UniqueConstraint("path", "sha256", name=op.f("uq_inbox_files_path_sha256")),
    )
    op.create_index(op.f("ix_inbox_files_state"), "inbox_files", ["state"], unique=False)
    op.create_table(
        "stage_seconds",
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("artworks", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("stage", name=op.f("pk_stage_seconds")),
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("api_key_id", sa.String(length=64), nullable=False),
        sa.Column("encrypted", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", name=op.f("pk_webhook_secrets")),
    )
    op.create_table(
        "inbox_entries",
        sa.Column("file_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("artwork_id", sa.Uuid, nullable=False),
        sa.ForeignKeyConstraint(["artwork_id"], ["artworks.id"], name=op.f("fk_inbox_entries_artwork_id")),
        sa.ForeignKeyConstraint(["file_id"], ["inbox_files.id"], name=op.f("fk_inbox_entries_file_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "position", name=op.f("pk_inbox_entries")),
        sa.UniqueConstraint("artwork_id", name=op.f("uq_inbox_entries_artwork_id")),
    )
    op.create_table(
        "transitions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("artwork_id", sa.Uuid, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("worker", sa.String(length=128)),
        sa.Column("note", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["artwork_id"], ["artworks.id"], name=op.f("fk_transitions_artwork_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transitions")),
    )
    op.create_index(op.f("ix_transitions_artwork_id"), "transitions", ["artwork_id"], unique=False)
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("artwork_id", sa.Uuid, nullable=False),
        sa.Column("api_key_id", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["artwork_id"], ["artworks.id"], name=op.f("fk_webhook_deliveries_artwork_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_artwork_id"), "webhook_deliveries", ["artwork_id"], unique=False)
    op.create_index(
        op.f("ix_webhook_deliveries_state_next_attempt_at"), "webhook_deliveries", ["state", "next_attempt_at"], unique=False
    )
    op.create_table(
        "webhook_attempts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("delivery_id", sa.Uuid, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["webhook_deliveries.id"], name=op.f("fk_webhook_attempts_delivery_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_attempts")),
    )
    op.create_index(op.f("ix_webhook_attempts_delivery_id"), "webhook_attempts", ["delivery_id"], unique=False)
