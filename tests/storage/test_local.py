"""What only the local driver does: folders, full disks, and files that killed processes leave."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import MissingObjectError, StorageError
from app.storage.local import LocalStorage
from tests.storage.targets import ROOT, LocalTarget, put, read

DAY_SECONDS = 86400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where storage will be; the folder and the one above are not there yet."""
    return tmp_path / "instance" / "storage"


@pytest.fixture
def storage(folder: Path) -> LocalStorage:
    return LocalStorage(folder)


def in_a_small_file_system(folder: Path) -> list[str]:
    """Runs a program for which `folder` is a file system of 1 MiB; empty where we may not."""
    unshare = shutil.which("unshare")
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    prefix = [unshare or "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    command = [*prefix, str(folder)]
    works = unshare and subprocess.run([*command, "true"], capture_output=True, check=False)  # noqa: S603
    return command if works and works.returncode == 0 else []


def run_fill(prefix: list[str], folder: Path, how: str) -> str:
    command = [*prefix, sys.executable, "-m", "tests.storage.programs", "fill", str(folder), how]
    environ = {**os.environ, "STORAGE": "local", "LOCAL_STORAGE_DIR": str(folder)}
    return subprocess.check_output(command, cwd=ROOT, env=environ, text=True)  # noqa: S603


def test_a_full_disk_is_storages_fault_and_is_not_made_fuller(folder: Path) -> None:
    """In a file system of its own; where only its administrator may mount one, by a limit instead."""
    folder.mkdir(parents=True)
    if prefix := in_a_small_file_system(folder):
        assert run_fill(prefix, folder, "mount").count("No space left on device") == 4
    else:
        assert run_fill([], folder, "limit").count("File too large") == 4


def test_a_write_that_the_system_cuts_short_is_storages_fault(folder: Path) -> None:
    folder.mkdir(parents=True)
    assert run_fill([], folder, "limit").count("File too large") == 4


def make_file(path: Path) -> Path:
    path.write_text("not a folder")
    return path


# Neither lets even root make a file in it.
@pytest.mark.parametrize(
    "make", [make_file, lambda _: Path("/proc/self"), lambda _: Path("/proc/self/storage")]
)
def test_a_folder_that_cannot_be_written_is_storages_fault(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    storage = LocalStorage(make(tmp_path / "file"))
    with pytest.raises(StorageError, match="could not store 'task/0'"):
        put(storage, "task/0")
    with pytest.raises(StorageError, match="could not be written to"):
        storage.check()


@pytest.mark.parametrize("name", ["file", "nothing"])
def test_without_its_folder_nothing_can_be_said_of_a_key(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(tmp_path / name)
    shutil.rmtree(tmp_path / name)
    if name == "file":
        make_file(tmp_path / "file")
    for act in (lambda: storage.open("key"), lambda: storage.delete(["key"])):
        with pytest.raises(StorageError) as caught:
            act()
        assert not isinstance(caught.value, MissingObjectError)


def test_a_folder_that_vanished_is_made_again(folder: Path, storage: LocalStorage) -> None:
    shutil.rmtree(folder)
    storage.check()
    put(storage, "task/0")
    assert read(storage, "task/0") == b"bytes"


def test_a_key_beneath_a_stored_one_is_storages_fault(storage: LocalStorage) -> None:
    put(storage, "task")
    with pytest.raises(StorageError, match="could not store 'task/0'"):
        put(storage, "task/0")
    put(storage, "other/0")
    with pytest.raises(StorageError, match="could not store 'other'"):
        put(storage, "other")
    assert read(storage, "task") == b"bytes"


def test_a_disk_that_cannot_be_read_is_storages_fault(folder: Path, storage: LocalStorage) -> None:
    # Reading a process's memory at address 0 fails as a broken disk does.
    (folder / "broken").symlink_to("/proc/self/mem")
    for size in (-1, 10, 10_000_000):
        with storage.open("broken") as file, pytest.raises(StorageError, match="Input/output"):
            file.read(size)


def test_files_are_for_their_owner_only_and_have_a_descriptor(
    folder: Path, storage: LocalStorage
) -> None:
    put(storage, "task/0", b"0123456789")
    with storage.open("task/0") as file:
        assert (file.seek(4), file.read(2)) == (4, b"45")
        assert os.fstat(file.fileno()).st_size == 10
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "task").stat().st_mode & 0o777 == 0o700
    assert (folder / "task" / "0").stat().st_mode & 0o777 == 0o600


def test_an_emptied_folder_goes_and_the_others_stay(folder: Path, storage: LocalStorage) -> None:
    # As many as a large purge has, most of which are missing.
    keys = [f"{number // 4}/{number % 4}" for number in range(1200)]
    for key in ("a/b/0", "a/1", "c/d/0", *keys[::10]):
        put(storage, key)
    storage.delete(iter(["a/b/0", "c/d/0", *keys]))
    assert sorted(path.name for path in folder.iterdir()) == [".partial", "a"]
    assert [path.name for path in (folder / "a").iterdir()] == ["1"]
    storage.delete(["a/1"])
    assert [path.name for path in folder.iterdir()] == [".partial"]


def test_a_folder_that_is_removed_just_now_is_made_again(storage: LocalStorage) -> None:
    """Its last file was deleted, while the next one was about to be moved there."""
    done = threading.Event()

    def remove_folder() -> None:
        while not done.is_set():
            storage.delete(["task/nothing"])

    with ThreadPoolExecutor(2) as threads:
        removals = [threads.submit(remove_folder) for _ in range(2)]
        try:
            for _ in range(100):
                put(storage, "task/0")
                storage.delete(["task/0"])
        finally:
            done.set()
        for removal in removals:
            removal.result()


def test_what_a_dead_process_left_is_deleted_after_a_day(
    folder: Path, storage: LocalStorage
) -> None:
    put(storage, "old")
    for name in ("dead", "alive"):
        (folder / ".partial" / name).write_text("unfinished")
    os.utime(folder / ".partial" / "dead", (0, folder.stat().st_mtime - DAY_SECONDS - 60))
    os.utime(folder / "old", (0, 0))
    os.utime(folder / ".partial" / "alive", (0, folder.stat().st_mtime - DAY_SECONDS + 3600))
    assert read(LocalStorage(folder), "old") == b"bytes"
    assert [path.name for path in (folder / ".partial").iterdir()] == ["alive"]


def test_another_working_directory_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage(Path("storage"))
    monkeypatch.chdir("/")
    put(storage, "key")
    assert (tmp_path / "storage" / "key").read_bytes() == b"bytes"


def test_the_caller_serves_the_bytes(local: LocalTarget) -> None:
    put(LocalStorage(local.folder), "key")
    assert local.storage.address("key") is None
