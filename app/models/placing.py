"""The table of objects on their way into storage."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.columns import db_now
from app.models.base import Base


class Placement(Base):
    """An object that is in storage, or may be, while no other row names it.

    It is written before the object is, and goes with the transaction that writes the object's own row.
    """

    __tablename__ = "placements"

    key: Mapped[str] = mapped_column(primary_key=True)
    noted_at: Mapped[datetime] = mapped_column(default=db_now())
    # From then on no row may name the object, because it is being deleted.
    abandoned: Mapped[bool] = mapped_column(default=False)
