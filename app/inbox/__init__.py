"""The one writer of incoming callbacks.

`take_in` judges and stores a batch in one transaction.  `Inbox` is the thread of a web process that
forms the batches: it takes what has queued up while the last commit ran, so that a burst costs a few
commits and a single callback waits for nobody.
"""

from app.inbox.answers import take_answer
from app.inbox.ledger import Incoming, Outcome, Taken, read_through, take_in
from app.inbox.writer import Inbox

__all__ = ["Inbox", "Incoming", "Outcome", "Taken", "read_through", "take_answer", "take_in"]
