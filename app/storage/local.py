"""Storage in a folder: a file under each key, written elsewhere and moved there when complete."""

import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING, BinaryIO

from app.errors import MissingObjectError, StorageError
from app.storage.checks import BoundedCheck
from app.storage.keys import check_key

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHECK_SECONDS = 5.0

_WRITE_BYTES = 2**20
_READ_BYTES = 64 * 2**10
# Whoever wrote such a file for so long is dead.
_PARTIAL_SECONDS = 86400
# Takes some 50 ms in all, for which nobody empties a folder again and again.
_PUBLISH_ATTEMPTS = 1000
# What the file system says of a key that was never stored, and of one that would be a folder.
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStorage:
    """Storage in `folder`, which is made when it is missing.

    Unfinished files are in its folder `.partial`, where no key leads.  What a killed process leaves
    there is harmless, and deleted by the first process that starts a day later.
    """

    def __init__(self, folder: Path) -> None:
        # Absolute, so that a later change of the working directory changes nothing.
        self._folder = folder.absolute()
        self._partial = self._folder / ".partial"
        self._check = BoundedCheck(self._probe, seconds=CHECK_SECONDS)
        # A folder that can't be made is storage that is down, not a reason not to start.
        with suppress(OSError):
            self._make_folders()
            self._clean()

    def put(self, key: str, file: BinaryIO, content_type: str) -> None:  # noqa: ARG002 - S3's
        target = self._path(key)
        doing = f"store {key!r}"
        with self._partial_file(doing) as (descriptor, partial):
            while chunk := file.read(_WRITE_BYTES):
                with _reported(doing):
                    _write(descriptor, chunk)
            with _reported(doing):
                os.fsync(descriptor)
                _publish(partial, target)
                self._sync_folders(target)

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        with _reported(f"read {key!r}"):
            try:
                return io.BufferedReader(_File(path, key), _READ_BYTES)
            except _ABSENT:
                if not self._folder.is_dir():
                    raise
                raise MissingObjectError(f"nothing is stored under {key!r}") from None

    def delete(self, keys: Iterable[str]) -> None:
        paths = {key: self._path(key) for key in keys}
        for key, path in paths.items():
            with _reported(f"delete {key!r}"):
                try:
                    path.unlink()
                except _ABSENT:
                    if not self._folder.is_dir():
                        raise
                self._remove_empty_folders(path)

    def address(self, key: str, method: str = "GET") -> None:
        del method
        check_key(key)

    def check(self) -> None:
        self._check()

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key

    def _probe(self) -> None:
        with self._partial_file("be written to") as (descriptor, _), _reported("be written to"):
            _write(descriptor, bytes(4096))
            os.fsync(descriptor)

    @contextmanager
    def _partial_file(self, doing: str) -> Iterator[tuple[int, Path]]:
        with _reported(doing):
            self._make_folders()
            descriptor, name = mkstemp(dir=self._partial)
        try:
            yield descriptor, Path(name)
        finally:
            # Moved into place by now, or worth nothing: so no failure of these matters.
            with suppress(OSError):
                Path(name).unlink()
            with suppress(OSError):
                os.close(descriptor)

    def _sync_folders(self, target: Path) -> None:
        """Make names last: the file's in its folder, and that folder's own in the one above."""
        for folder in _folders_between(target, self._folder):
            # Gone already when somebody deletes the file meanwhile.
            with suppress(FileNotFoundError):
                _sync_folder(folder)
        _sync_folder(self._folder)

    def _remove_empty_folders(self, path: Path) -> None:
        for folder in _folders_between(path, self._folder):
            try:
                folder.rmdir()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return

    def _make_folders(self) -> None:
        # One by one, because `parents` would not have the mode.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._partial.mkdir(mode=0o700, exist_ok=True)

    def _clean(self) -> None:
        oldest = time.time() - _PARTIAL_SECONDS
        for path in self._partial.iterdir():
            # Other processes may be cleaning too.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


class _File(io.FileIO):
    """A stored file; that its disk can't be read is storage's error."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path)
        self._doing = f"read {key!r}"

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        with _reported(self._doing):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _reported(self._doing):
            return super().readall()


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"local storage could not {doing}: {error.strerror or error}") from error


def _write(descriptor: int, data: bytes) -> None:
    # A disk that fills up takes a part and says so only at the next write.
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _publish(partial: Path, target: Path) -> None:
    for attempt in range(1, _PUBLISH_ATTEMPTS + 1):
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.replace(target)
        except (FileNotFoundError, FileExistsError):
            # Somebody who deleted the last file of the folder may have removed it just now.
            if attempt == _PUBLISH_ATTEMPTS:
                raise
        else:
            return


def _folders_between(path: Path, folder: Path) -> list[Path]:
    """The folders that hold `path`, innermost first, without `folder` and what holds that."""
    between = path.relative_to(folder).parents
    return [folder / inner for inner in between if inner.name]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
