"""What the second version of the API keeps: see the tables' comments in serving/database.py."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    pass
