"""A client of this service's own API, for the command line.

It knows of the service what any other client does, and the names of the fields.
"""

from app.client.commands import submit, tasks

__all__ = ["submit", "tasks"]
