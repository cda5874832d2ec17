"""What the files of a form may be: their bytes decide, never the declared type or name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from app.errors import InvalidFieldError
from app.providers.rules.headers import Header, read_header
from app.providers.rules.kinds import Schema

_SHOWN_BYTES = 12


@dataclass(frozen=True)
class FileFacts:
    """What is known of a file: `size` bytes, and what its head says, if it is an image's."""

    size: int
    header: Header | None
    beginning: bytes = b""

    def __str__(self) -> str:
        if self.header is None:
            return f"a file that begins with {self.beginning!r}" if self.size else "an empty file"
        return f"{self.header.format} of {self.header.width}x{self.header.height}"


def facts_of(file: BinaryIO, size: int) -> FileFacts:
    """The facts of `file`, which can seek; it is left somewhere."""
    header = read_header(file)
    file.seek(0)
    return FileFacts(size, header, file.read(_SHOWN_BYTES))


@dataclass(frozen=True)
class ImageFiles:
    """Up to `most` image files under one name, each of at most `largest` bytes.

    `same_size_as` names other files, with the first of which each must share its sides; `together_with`
    names those without which there must be none.
    """

    most: int
    largest: int
    formats: tuple[str, ...] = ("png", "webp", "jpeg")
    square: bool = False
    alpha: bool = False
    same_size_as: str | None = None
    together_with: str | None = None

    def check(self, name: str, given: Mapping[str, Sequence[FileFacts]]) -> None:
        """Raise `InvalidFieldError` for the first of the files under `name` that breaks a rule."""
        files = given.get(name, ())
        if len(files) > self.most:
            raise _wrong(name, f"at most {self.most} {_plural('file', self.most)}", len(files))
        if files and self.together_with and not given.get(self.together_with):
            raise InvalidFieldError(name, f"{name} needs {self.together_with} to be a file, too")
        for file in files:
            self._check_bytes(name, file)
            self._check_sides(name, file, given)

    def schema(self) -> Schema:
        """As JSON Schema, which knows nothing of bytes."""
        file = {"type": "string", "contentMediaType": "application/octet-stream"}
        described = {"description": str(self)}
        if self.most == 1:
            return {**file, **described}
        return {"type": "array", "items": file, "maxItems": self.most, **described}

    def _check_bytes(self, name: str, file: FileFacts) -> None:
        if file.size > self.largest:
            raise _wrong(name, f"a file of at most {self.largest:,} bytes", f"{file.size:,}")
        if file.header is None or file.header.format not in self.formats:
            raise _wrong(name, f"{' or '.join(self.formats)}", file)
        if self.alpha and not file.header.alpha:
            raise _wrong(name, "an image with an alpha channel", "one without")

    def _check_sides(
        self, name: str, file: FileFacts, given: Mapping[str, Sequence[FileFacts]]
    ) -> None:
        header = file.header
        if header is None:
            return
        if self.square and header.width != header.height:
            raise _wrong(name, "a square image", f"{header.width}x{header.height}")
        others = given.get(self.same_size_as or "", ())
        first = others[0].header if others else None
        if first and (header.width, header.height) != (first.width, first.height):
            expected = f"the size of the first {self.same_size_as}, {first.width}x{first.height}"
            raise _wrong(name, expected, f"{header.width}x{header.height}")

    def __str__(self) -> str:
        count = "one" if self.most == 1 else f"1 to {self.most}"
        words = [
            count,
            "square" if self.square else "",
            " or ".join(self.formats),
            _plural("file", self.most),
            "with an alpha channel" if self.alpha else "",
            f"of at most {self.largest:,} bytes",
            f"and as large as the first {self.same_size_as}" if self.same_size_as else "",
        ]
        return " ".join(word for word in words if word)


def _wrong(name: str, expected: str, found: object) -> InvalidFieldError:
    return InvalidFieldError(name, f"{name}: expected {expected}, not {found}")


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
