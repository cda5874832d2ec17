"""A database as after months of work: tasks with their images, callbacks, events, deliveries, tallies."""

import json
import random
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import psycopg
from sqlalchemy import make_url

from app import db
from app.counts import bucket_of, hour_of
from app.models import Base
from app.search import words_of

DAYS = 90
CHUNK = 20_000
MODELS = {"gpt-image-2": 50, "gpt-image-1": 25, "nano-banana": 12, "dall-e-2": 8, "gpt-image-1.5": 4.9,
          "nano-banana-pro": 0.09, "rare-model": 0.01}  # fmt: skip
STATUSES = {
    "succeeded": 93,
    "failed": 5.6,
    "canceled": 1,
    "received": 0.1,
    "submitted": 0.2,
    "queued": 0.1,
}
# In most prompts, in a tenth, in every thousandth; the others are spread as words of a language are.
COMMON, FREQUENT, RARE = "make", "sepia", "aardvark"


def fill(url: str, tasks: int, *, seed: int = 1) -> None:
    """Migrate the empty database at `url` and fill it."""
    db.migrate(url)
    with (_Sqlite if url.startswith("sqlite") else _Postgresql)(url) as database:
        for start in range(0, tasks, CHUNK):
            rows = _Rows(random.Random(seed * 1_000_000 + start))
            for number in range(start, min(start + CHUNK, tasks)):
                rows.add_task(number / tasks)
                rows.add_others(number / tasks)
            rows.write(database)


class _Rows:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = datetime.now(UTC)
        self._rows: dict[str, list[dict]] = {}
        self._tallies: Counter = Counter()
        self._latencies: Counter = Counter()

    def add_task(self, share: float) -> None:
        """One of the tasks, made after this share of the days."""
        chance = self._chance
        made = self._now - timedelta(days=DAYS * (1 - share))
        id_, model, status = self._id(made), _one(chance, MODELS), _one(chance, STATUSES)
        provider = "agcloud" if chance.random() < 0.1 else "acedata"
        if status in {"received", "submitted", "queued"} and share < 0.999:
            status = "succeeded"
        sent, came, done = (
            made + timedelta(seconds=s) for s in (1, 1 + chance.expovariate(1 / 30), 90)
        )
        ended = status in {"succeeded", "failed", "canceled"}
        prompt = _prompt(chance)
        result = self._id(came)
        self._add("tasks", id=id_, provider=provider, model=model, status=status, prompt=prompt,
                  provider_task_id=self._id(sent), trace_id=f"order-{chance.randrange(10**6)}",
                  request={"prompt": prompt, "model": model, "image": "https://example.com/a.png"},
                  metadata={}, deadline_at=made + timedelta(hours=1), result_id=result,
                  created_at=made, submitted_at=sent, received_at=came if ended else None,
                  answered_at=sent, finished_at=done if ended else None)  # fmt: skip
        self._add("prompts", task_id=id_, words=words_of(prompt))
        self._add("inputs", id=self._id(made), task_id=id_, role="image", index=0,
                  source_url="https://example.com/a.png")  # fmt: skip
        happened = {"created": made, "submitted": sent}
        if ended or status == "received":
            self._add_result(id_, result, status, came)
            happened |= {"received": came} | ({status: done} if ended else {})
        for event, at in happened.items():
            self._tallies[hour_of(at), provider, model, event] += 1
            self._add("events", task_id=id_, at=at, event=event, detail={}, xid=1)
        self._latencies[hour_of(came), provider, model, "provider",
                        bucket_of((came - sent).total_seconds())] += 1  # fmt: skip
        self._latencies[
            hour_of(done), provider, model, "storing", bucket_of(1 + chance.random())
        ] += 1

    def _add_result(self, task_id: str, result: str, status: str, came: datetime) -> None:
        chance = self._chance
        self._add("callbacks", id=result, task_id=task_id, source="callback", verdict="accepted",
                  reason=None, address="192.0.2.7", headers={}, bytes=512,
                  sha256=f"{chance.getrandbits(256):064x}", duplicates=int(chance.random() < 0.02),
                  received_at=came)  # fmt: skip
        for index in range(1 + (chance.random() < 0.2)):
            image = self._id(came)
            self._add("images", id=image, task_id=task_id, callback_id=result, index=index,
                      status="stored" if status == "succeeded" else "failed", source="https://x",
                      key=f"images/{image}.png", content_type="image/png", bytes=1_234_567, width=1024,
                      height=1024, sha256=f"{chance.getrandbits(256):064x}", stored_at=came)  # fmt: skip
        message = self._id(came)
        self._add("messages", id=message, task_id=task_id, type=f"task.{status}", created_at=came)
        self._add("deliveries", id=self._id(came), message_id=message, task_id=task_id,
                  type=f"task.{status}", status="delivered", url="https://example.com/hook",
                  created_at=came, delivered_at=came)  # fmt: skip

    def add_others(self, share: float) -> None:
        """A callback that was refused, and an act of a person."""
        at = self._now - timedelta(days=DAYS * (1 - share))
        self._add("callbacks", id=self._id(at), task_id=None, source="callback", verdict="rejected",
                  reason="token: forged", address="203.0.113.9", headers={}, bytes=100, sha256=None,
                  duplicates=0, received_at=at)  # fmt: skip
        self._add("audits", at=at, actor="anna", action="retry", subject=self._id(at))

    def write(self, database) -> None:
        """Insert all rows."""
        for table in ("tallies", "latencies"):
            keys = [column.name for column in Base.metadata.tables[table].primary_key]
            for key, count in getattr(self, f"_{table}").items():
                self._add(table, **dict(zip(keys, key, strict=True)), count=count)
        for table in Base.metadata.sorted_tables:
            if rows := self._rows.get(table.name):
                database.insert(table, rows)

    def _add(self, table: str, **row) -> None:
        self._rows.setdefault(table, []).append(row)

    def _id(self, at: datetime) -> str:
        milliseconds = int(at.timestamp() * 1000)
        rest = self._chance.getrandbits(74)
        number = milliseconds << 80 | 7 << 76 | (rest >> 62) << 64 | 2 << 62 | rest & (2**62 - 1)
        return f"{number:032x}"


class _Sqlite:
    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(make_url(url).database, isolation_level=None)
        for pragma in ("synchronous=OFF", "journal_mode=MEMORY", "cache_size=-500000"):
            self._connection.execute(f"PRAGMA {pragma}")

    def __enter__(self) -> "_Sqlite":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.close()

    def insert(self, table, rows) -> None:
        """Insert rows, adding up what is there already."""
        names = _names(table, rows)
        quoted = ", ".join(f'"{name}"' for name in names)
        again = ""
        if table.name in {"tallies", "latencies"}:
            keys = ", ".join(column.name for column in table.primary_key)
            again = f" ON CONFLICT ({keys}) DO UPDATE SET count = count + excluded.count"
        places = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({quoted}) VALUES ({places}){again}"
        self._connection.execute("BEGIN")
        self._connection.executemany(statement, [[_plain(row[n]) for n in names] for row in rows])
        self._connection.execute("COMMIT")


class _Postgresql:
    def __init__(self, url: str) -> None:
        address = url.replace("postgresql+psycopg://", "postgresql://")
        self._connection = psycopg.connect(address, autocommit=True)
        self._connection.execute("SET timezone = 'UTC'")

    def __enter__(self) -> "_Postgresql":
        return self

    def __exit__(self, *_: object) -> None:
        # As its own housekeeping does within minutes.
        self._connection.execute("VACUUM ANALYZE")
        self._connection.close()

    def insert(self, table, rows) -> None:
        """Insert rows, adding up what is there already."""
        names = _names(table, rows)
        quoted = ", ".join(f'"{name}"' for name in names)
        target = table.name
        if adds_up := table.name in {"tallies", "latencies"}:
            target = "more"
            self._connection.execute(f"CREATE TEMP TABLE more (LIKE {table.name})")
        with self._connection.cursor().copy(f"COPY {target} ({quoted}) FROM STDIN") as copy:
            for row in rows:
                copy.write("\t".join(_copied(row[name]) for name in names) + "\n")
        if adds_up:
            keys = ", ".join(column.name for column in table.primary_key)
            self._connection.execute(
                f"INSERT INTO {table.name} ({quoted}) SELECT {quoted} FROM more ON CONFLICT ({keys})"
                f" DO UPDATE SET count = {table.name}.count + excluded.count"
            )
            self._connection.execute("DROP TABLE more")


def _names(table, rows) -> list[str]:
    """The columns of `rows`, and those that must not be empty, which get their defaults."""
    missing = {
        column.name: column.default.arg
        for column in table.c
        if not column.nullable and column.default is not None and column.name not in rows[0]
        if column.default.is_scalar
    }
    for row in rows:
        for name, value in missing.items():
            row[name] = getattr(value, "value", value)
    return list(rows[0])


def _plain(value):
    """A value as SQLite keeps it."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, list):
        return "".join(f" {word}" for word in value)
    return value


def _copied(value) -> str:
    """A value as COPY reads it."""
    if value is None:
        return "\\N"
    if isinstance(value, list):
        value = "".join(f" '{word}'" for word in value)
    text = str(int(value) if isinstance(value, bool) else _plain(value))
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _one(chance: random.Random, weights: dict[str, float]) -> str:
    return chance.choices(list(weights), cum_weights=list(accumulate(weights.values())))[0]


_SYLLABLES = [consonant + vowel for consonant in "bklmnrst" for vowel in "aou"]
_VOCABULARY = [
    a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in ("", *_SYLLABLES[:9]) if a != b
]
# The n-th word is n times rarer than the first.
_HARMONIC = list(accumulate(1 / rank for rank in range(1, len(_VOCABULARY) + 1)))


def _prompt(chance: random.Random) -> str:
    words = chance.choices(_VOCABULARY, cum_weights=_HARMONIC, k=chance.randrange(4, 24))
    for word, share in ((COMMON, 0.7), (FREQUENT, 0.1), (RARE, 0.001)):
        if chance.random() < share:
            words.insert(chance.randrange(len(words)), word)
    return " ".join(words)
