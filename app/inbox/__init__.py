"""The one writer of incoming callbacks.

`take_in` judges and stores a batch in one transaction.  `Inbox` forms the batches in a web process: it
takes what has queued up while the last commit ran, so that a burst costs a few commits and a single
callback waits for nobody.
"""

from app.inbox.answers import is_success, take_answer
from app.inbox.ledger import read_through, take_in
from app.inbox.rows import count_duplicates
from app.inbox.threads import Inbox
from app.inbox.values import BROKEN_TRANSFER, Incoming, Outcome, Taken

__all__ = [
    "BROKEN_TRANSFER",
    "Inbox",
    "Incoming",
    "Outcome",
    "Taken",
    "count_duplicates",
    "is_success",
    "read_through",
    "take_answer",
    "take_in",
]
