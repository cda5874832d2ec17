"""The drivers under test, each on something real of its own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.swift import AWS_ENVIRON, Swift
from tests.storage.targets import LocalTarget, S3Target, Target, build


@pytest.fixture
def local(tmp_path: Path) -> LocalTarget:
    """Storage in an empty folder."""
    environ = {"STORAGE": "local", "LOCAL_STORAGE_DIR": str(tmp_path / "storage")}
    return LocalTarget(build(environ), environ, tmp_path / "storage")


@pytest.fixture
def aws_environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The environment has credentials, and nothing else for boto3; gives a way to change it."""

    def update(**settings: str) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    update(**AWS_ENVIRON)
    return update


@pytest.fixture
def s3_target(swift: Swift, aws_environ: Callable[..., None]) -> Callable[..., S3Target]:
    """Builds storage in an empty bucket; settings that are given replace the working ones."""

    def build_target(**settings: str) -> S3Target:
        bucket = swift.new_bucket()
        environ = {**swift.environ(bucket), **settings}
        aws_environ(**environ)
        return S3Target(build(environ), environ, bucket, swift.client)

    return build_target


@pytest.fixture
def s3(s3_target: Callable[..., S3Target]) -> S3Target:
    """Storage in an empty bucket."""
    return s3_target()


@pytest.fixture(params=["local", "s3"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each driver in turn."""
    target: Target = request.getfixturevalue(request.param)
    return target
