"""Files under fields that this service does not know: an input's role is any name."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("inputs", schema=None) as batch_op:
        batch_op.alter_column(
            "role", existing_type=sa.String(20), type_=sa.Text(), existing_nullable=False
        )


def downgrade() -> None:
    """Undo: the version before cannot read other roles, and its purge takes their objects away."""
    others = "FROM inputs WHERE role NOT IN ('image', 'mask')"
    op.execute(
        "INSERT INTO placements (key, noted_at, abandoned)"
        f" SELECT key, CURRENT_TIMESTAMP, true {others}"
    )
    op.execute(f"DELETE {others}")
    with op.batch_alter_table("inputs", schema=None) as batch_op:
        batch_op.alter_column(
            "role", existing_type=sa.Text(), type_=sa.String(20), existing_nullable=False
        )
