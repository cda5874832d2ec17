"""A pretend provider on loopback, for whoever develops against this service: it costs nothing.

cli           the command, whose help lists all that goes wrong on request
server        a running sandbox; application  its addresses
acedata       Ace Data Cloud's protocol; agcloud  AGCloud's; refusals  what both may refuse
submissions   a request as an `Edit` and as wishes, by the rules of the service; fields  what it says
studio        does an edit: rendering, effects; spoiling  wrong image files
gallery       the pictures as files; hosting  how they are given out
callbacks     results to the callback URL; chunking  without a length
misbehaviours what goes wrong, by words in a prompt or by options
ledger        what happened; scheduling  what is due later
"""

from app.sandbox.options import Options
from app.sandbox.server import Sandbox, serve

__all__ = ["Options", "Sandbox", "serve"]
