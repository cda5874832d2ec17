"""What tasks are found by: the words of their prompts, and whatever a list is filtered by."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0003"
down_revision = "0002"

# The words have no signs of ASCII but letters, digits and underscores: blanks are between them.
FTS = """
CREATE VIRTUAL TABLE prompts_fts USING fts5(
    words, content='prompts', content_rowid='id', detail='none', tokenize="ascii tokenchars '_'"
)
"""
REMOVE = "INSERT INTO prompts_fts(prompts_fts, rowid, words) VALUES ('delete', old.id, old.words);"
ADD = "INSERT INTO prompts_fts(rowid, words) VALUES (new.id, new.words);"
TRIGGERS = {"INSERT": ADD, "DELETE": REMOVE, "UPDATE OF words": REMOVE + ADD}

# As they were told apart when this migration was written.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+|[^\x00-\x7f\s]")


def upgrade() -> None:
    """Apply."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "prompts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("words", sa.Text() if sqlite else TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_prompts_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("task_id", name=op.f("uq_prompts_task_id")),
    )
    if sqlite:
        op.execute(FTS)
        for number, (change, statements) in enumerate(TRIGGERS.items()):
            name = f"prompts_changed_{number}"
            op.execute(f"CREATE TRIGGER {name} AFTER {change} ON prompts BEGIN {statements} END")
    else:
        op.create_index("ix_prompts_words", "prompts", ["words"], postgresql_using="gin")
    op.drop_index("ix_tasks_trace_id", "tasks")
    op.drop_index("ix_tasks_provider_task", "tasks")
    op.create_index("ix_tasks_provider", "tasks", ["provider", "status", "id"])
    op.create_index("ix_tasks_model", "tasks", ["model", "provider", "status", "id"])
    op.create_index("ix_tasks_trace_id", "tasks", ["trace_id", "id"])
    op.create_index(
        "ix_tasks_provider_task",
        "tasks",
        ["provider_task_id", "provider"],
        postgresql_ops={"provider_task_id": "text_pattern_ops"},
    )
    op.create_index(
        "ix_callbacks_duplicates",
        "callbacks",
        ["id", "duplicates"],
        sqlite_where=sa.text("duplicates > 0"),
        postgresql_where=sa.text("duplicates > 0"),
    )
    note_prompts(quote="" if sqlite else "'")


def downgrade() -> None:
    """Undo."""
    op.drop_index(
        "ix_callbacks_duplicates",
        "callbacks",
        sqlite_where=sa.text("duplicates > 0"),
        postgresql_where=sa.text("duplicates > 0"),
    )
    for name in ("provider_task", "trace_id", "model", "provider"):
        op.drop_index(f"ix_tasks_{name}", "tasks")
    op.create_index("ix_tasks_provider_task", "tasks", ["provider_task_id", "provider"])
    op.create_index("ix_tasks_trace_id", "tasks", ["trace_id"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE prompts_fts")
    op.drop_table("prompts")


def note_prompts(quote: str) -> None:
    """Let the tasks that are there be found, too."""
    tasks = sa.table("tasks", sa.column("id", sa.Uuid()), sa.column("prompt", sa.Text()))
    prompts = sa.table("prompts", sa.column("task_id", sa.Uuid()), sa.column("words"))
    connection = op.get_bind()
    for rows in pages(connection, tasks):
        noted = [
            {
                "task_id": id_,
                "words": "".join(f" {quote}{word}{quote}" for word in words_of(prompt)),
            }
            for id_, prompt in rows
        ]
        connection.execute(sa.insert(prompts), noted)


def pages(connection: sa.Connection, tasks: Any) -> Iterator[list[Any]]:
    """All tasks with a prompt, some at a time."""
    with_prompt = sa.select(tasks.c.id, tasks.c.prompt).where(tasks.c.prompt != "")
    query = with_prompt.order_by(tasks.c.id).limit(1000)
    rows = list(connection.execute(query))
    while rows:
        yield rows
        rows = list(connection.execute(query.where(tasks.c.id > rows[-1][0])))


def words_of(text: str) -> list[str]:
    """The words in a prompt."""
    folded = unicodedata.normalize("NFKC", text[: 2**16]).casefold()[: 2**17]
    return list(dict.fromkeys(word[:100] for word in WORD.findall(folded)))
