"""What the second version of the API keeps: see the tables' comments in serving/database.py."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("artworks", sa.Column("webhook_events", sa.JSON))
    op.add_column("webhook_deliveries", sa.Column("event", sa.String(16), nullable=False, server_default="final"))
    op.add_column("webhook_deliveries", sa.Column("reason", sa.Text))
    op.create_table(
        "webhook_earlier_secrets",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("api_key_id", sa.String(64), nullable=False),
        sa.Column("encrypted", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_earlier_secrets")),
    )
    op.create_index(op.f("ix_webhook_earlier_secrets_api_key_id"), "webhook_earlier_secrets", ["api_key_id"])
    op.add_column("webhook_deliveries", sa.Column("replayed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "webhook_endpoints",
        sa.Column("api_key_id", sa.String(64), nullable=False),
        sa.Column("url_sha256", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_failure_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("api_key_id", "url_sha256", name=op.f("pk_webhook_endpoints")),
    )
    op.add_column("artworks", sa.Column("upload_id", sa.Uuid))
    op.create_index(op.f("ix_artworks_upload_id"), "artworks", ["upload_id"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("api_key_id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("stored", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"])
    # what a deletion may remove
    op.create_index(op.f("ix_artworks_folder"), "artworks", ["folder"])
    op.create_table(
        "removed_folders",
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_removed_folders")),
    )
    op.create_index(op.f("ix_removed_folders_removed_at"), "removed_folders", ["removed_at"])
    op.add_column("artworks", sa.Column("usable_models", sa.Text))
    op.add_column("workers", sa.Column("models", sa.JSON))
    op.create_table(
        "rate_limits",
        sa.Column("api_key_id", sa.String(64), nullable=False),
        sa.Column("full_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("api_key_id", name=op.f("pk_rate_limits")),
    )
