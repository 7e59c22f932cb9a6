"""What the second version of the API keeps: see the tables' comments in serving/database.py."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("artworks", sa.Column("webhook_events", sa.JSON))
    op.add_column("webhook_deliveries", sa.Column("event", sa.String(16), nullable=False, server_default="final"))
    op.add_column("webhook_deliveries", sa.Column("reason", sa.Text))
