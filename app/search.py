"""Finding prompts by their words: the same words on both databases, whatever script they are in.

A word is a run of letters, digits and underscores; of scripts that write no blanks each character is
one, and so is each sign outside of ASCII, such as an emoji.  A word is found by its beginning, in upper
or lower case.  What is looked for is only ever compared, so nothing in it can be a mistake.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    and_,
    cast,
    column,
    false,
    func,
    literal,
    select,
    table,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from app.columns import clean
from app.models import Prompt

# More of a prompt is not looked into, and a word is told apart by so many characters.
LONGEST_TEXT = 2**16
LONGEST_WORD = 100
# Of what is looked for, so many words are.
MOST_WORDS = 32
# So many prompts tell which words are rare and which are common: the shares of them that have such.
SAMPLE = 300
RARE = 0.01
COMMON = 0.03

# Thai to Myanmar, Khmer, and from the CJK radicals to the compatibility ideographs; not Hangul.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+|[^\x00-\x7f\s]")

_FTS = table("prompts_fts", column("rowid"), column("prompts_fts"))


def words_of(text: str) -> list[str]:
    """The words in `text`, each once, in the order in which they come first."""
    folded = unicodedata.normalize("NFKC", clean(text[:LONGEST_TEXT])).casefold()[
        : 2 * LONGEST_TEXT
    ]
    return list(dict.fromkeys(word[:LONGEST_WORD] for word in _WORD.findall(folded)))


def note(session: Session, task_id: UUID, prompt: str | None) -> None:
    """Let a task, which must be there, be found by the words of its prompt."""
    if prompt and (words := words_of(prompt)):
        session.add(Prompt(task_id=task_id, words=words))


def having(
    session: Session, words: Sequence[str], column: ColumnElement[Any] | None = None
) -> ColumnElement[bool]:
    """Whether a row of `Prompt` has all these words: for few rows, without the index."""
    column = Prompt.words.expression if column is None else column
    if not words:
        return false()
    if _is_postgresql(session):
        return column.bool_op("@@")(_tsquery(words))
    return and_(*(func.instr(column, f" {word}") > 0 for word in words[:MOST_WORDS]))


def tasks_having(session: Session, words: Sequence[str]) -> Select[UUID]:
    """The ids of the tasks whose prompts have all these words, at least one, by the index."""
    rare = _rare(session, words[:MOST_WORDS])
    others = [word for word in words[:MOST_WORDS] if word not in rare]
    also = having(session, others) if others else true()
    if _is_postgresql(session):
        return select(Prompt.task_id).where(Prompt.words.bool_op("@@")(_tsquery(rare)), also)
    query = " ".join(f'"{word}"*' for word in rare)
    found = select(_FTS.c.rowid).where(_FTS.c.prompts_fts.op("MATCH")(query))
    return select(Prompt.task_id).where(Prompt.id.in_(found), also)


def common(session: Session, words: Sequence[str]) -> bool:
    """Whether so many prompts have all these words that the index had better not be asked for them."""
    some = _sample(session)
    having_all = func.count().filter(having(session, words, some.c.words))
    return (session.scalar(select(having_all)) or 0) > SAMPLE * COMMON


def _rare(session: Session, words: Sequence[str]) -> Sequence[str]:
    """Those of the words that are rare, or the rarest of them.

    An index has to gather all the rows of each word that it is asked for.
    """
    if len(words) == 1:
        return words
    some = _sample(session)
    counted = [func.count().filter(having(session, [word], some.c.words)) for word in words]
    counts = session.execute(select(*counted)).one()
    most = max(SAMPLE * RARE, *sorted(counts)[:1])
    return [word for word, count in zip(words, counts, strict=True) if count <= most]


def _sample(session: Session) -> Subquery:
    """Some prompts, from the oldest to the newest."""
    last = session.scalar(select(func.max(Prompt.id))) or 0
    ids = {last * number // SAMPLE for number in range(1, SAMPLE + 1)}
    return select(Prompt.words).where(Prompt.id.in_(ids)).subquery()


def _tsquery(words: Sequence[str]) -> ColumnElement[str]:
    # There is neither quote nor backslash in a word.
    query = " & ".join(f"'{word}':*" for word in words[:MOST_WORDS])
    return cast(literal(query), TSQUERY)


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
