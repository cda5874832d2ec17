"""Finding prompts by their words: the same words on both databases, whatever script they are in.

A word is a run of letters, digits and underscores; of scripts that write no blanks each character is
one, and so is each sign outside of ASCII, such as an emoji.  A word is found by its beginning, in upper
or lower case.  What is looked for is only ever compared, so nothing in it can be a mistake.
"""

import re
import unicodedata
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    cast,
    column,
    false,
    func,
    literal,
    select,
    table,
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


def having(session: Session, words: list[str]) -> ColumnElement[bool]:
    """Whether a row of `Prompt` has all these words: for few rows, without the index."""
    if not words:
        return false()
    if _is_postgresql(session):
        return Prompt.words.bool_op("@@")(_tsquery(words))
    return and_(*(func.instr(Prompt.words, f" {word}") > 0 for word in words[:MOST_WORDS]))


def tasks_having(session: Session, words: list[str]) -> Select[UUID]:
    """The ids of the tasks whose prompts have all these words, at least one, by the index."""
    if _is_postgresql(session):
        return select(Prompt.task_id).where(Prompt.words.bool_op("@@")(_tsquery(words)))
    query = " ".join(f'"{word}"*' for word in words[:MOST_WORDS])
    found = select(_FTS.c.rowid).where(_FTS.c.prompts_fts.op("MATCH")(query))
    return select(Prompt.task_id).where(Prompt.id.in_(found))


def _tsquery(words: list[str]) -> ColumnElement[str]:
    # There is neither quote nor backslash in a word.
    query = " & ".join(f"'{word}':*" for word in words[:MOST_WORDS])
    return cast(literal(query), TSQUERY)


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
