"""The one family of errors, named by the stage that failed."""


class PostbackError(Exception):
    """Something this service could not do.

    `code` is a word for programs and the string of the error a sentence for people.  `permanent` says
    that trying again cannot help.  `counts` says that a failed attempt uses up one of the job's tries:
    trouble with our own parts does not.  `retry_after` is what the other side asked for, in seconds.
    """

    code = "api_error"
    permanent = False
    counts = True

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        permanent: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.code
        self.permanent = self.permanent if permanent is None else permanent
        self.retry_after = retry_after


class ConfigError(PostbackError):
    """Settings that are wrong; `problems` has a line for each."""

    permanent = True

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    @property
    def report(self) -> str:
        """What a program says before it ends because of them."""
        return "Wrong settings:\n" + "\n".join(f"  {problem}" for problem in self.problems)


class UnavailableError(PostbackError):
    """One of our own parts is away for now; nothing was claimed."""

    code = "unavailable"
    counts = False


class TablesError(UnavailableError):
    """The database has not the tables of this version: somebody has to migrate it."""


class TokenError(PostbackError):
    """A token that is forged, altered or expired."""

    code = "not_found"
    permanent = True


class LeaseLostError(PostbackError):
    """The job's lease ended: another worker has it, so this one's result must not be written."""

    permanent = True


class StorageError(UnavailableError):
    """Our storage is down, refuses or is full: never the fault of what is to be stored."""


class MissingObjectError(StorageError):
    """No object is stored under that key."""

    code = "not_found"
    permanent = True


class OutboundError(PostbackError):
    """A call to the outside failed.  `sent` says whether any byte of it may have arrived."""

    sent = True


class NotSentError(OutboundError):
    """The connection was never made, so that nothing has arrived."""

    sent = False


class BlockedAddressError(NotSentError):
    """The guard refuses to connect to that address."""

    code = "blocked_address"
    permanent = True


class ImageError(PostbackError):
    """An image that cannot be stored as it is."""

    permanent = True


class ProviderError(PostbackError):
    """The provider said no.  `status` is the HTTP status under which our caller hears of it."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        permanent: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, permanent=permanent, retry_after=retry_after)
        self.status = status


class InvalidResultError(PostbackError):
    """What was sent to us as a result is none."""

    code = "invalid_callback"
    permanent = True


class InvalidFieldError(PostbackError):
    """A field of a request that breaks a rule; `param` names it."""

    code = "bad_request"
    permanent = True

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class NotFoundError(PostbackError):
    """What was named does not exist."""

    code = "not_found"
    permanent = True


class ConflictError(PostbackError):
    """What was asked for does not go with how things are."""

    code = "conflict"
    permanent = True
