"""A real S3 server, OpenStack Swift: it checks signatures, expiry and checksums."""

import http.client
import os
import pwd
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3
from botocore.config import Config

from tests.servers.processes import Process, ReservedPort, ServerError, end, start, tell, wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
# Known to the server, but allowed nothing.
STRANGER_ACCESS_KEY = "test:stranger"
STRANGER_SECRET_KEY = "stranging"

# For boto3, which otherwise looks for more on the machine.
AWS_ENVIRON = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

_ACCOUNT = "AUTH_test"
_BACKENDS = ("account", "container", "object")

_SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = tests
"""

_BACKEND_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
devices = {folder}/devices
user = {user}
workers = 0
mount_check = false
disable_fallocate = true
log_level = WARNING
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

# Without `cache`, so that no memcached that happens to run here is shared with other sessions.  The
# time-outs between the parts are long because the machine may be busy.
_PROXY_CONF = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {folder}
user = {user}
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = catch_errors proxy-logging listing_formats bulk s3api tempauth slo dlo copy
    versioned_writes symlink proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 10
node_timeout = 30
error_suppression_limit = 1000000
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_stranger = stranging
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:copy]
use = egg:swift#copy
[filter:symlink]
use = egg:swift#symlink
"""

# In a process of its own, because importing Swift changes the interpreter.
_MAKE_RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in zip(sys.argv[1::2], sys.argv[2::2]):
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d1",
                     "weight": 1, "replication_ip": "127.0.0.1", "replication_port": int(port)})
    builder.rebalance()
    builder.get_ring().save(name + ".ring.gz")
"""


class Swift:
    """A server that keeps its data and its address while it is stopped and started."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.endpoint = f"http://127.0.0.1:{ports['proxy']}"
        self._folder = folder
        self._ports = ports
        self._processes: dict[str, Process] = {}
        self._configure()

    def start(self) -> None:
        """Start those servers that don't run and wait until each answers.  Raises `ServerError`."""
        for name in self._ports:
            if name in self._processes and self._processes[name].poll() is None:
                continue
            script = Path(sysconfig.get_path("scripts"), f"swift-{name}-server")
            command = [sys.executable, str(script), f"{self._folder}/{name}-server.conf", "-v"]
            self._processes[name] = start(command, folder=self._folder)
        for name, process in self._processes.items():
            wait_until(partial(self._answers, name), process, folder=self._folder)

    def stop(self) -> None:
        """End the servers: connections are refused from now on."""
        end(self._processes.values())

    @contextmanager
    def down(self) -> Iterator[None]:
        """Without the servers inside the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Inside the block, connections are accepted but nothing answers."""
        tell(self._processes["proxy"], signal.SIGSTOP)
        try:
            yield
        finally:
            tell(self._processes["proxy"], signal.SIGCONT)

    def environ(self, bucket: str) -> dict[str, str]:
        """Settings with which the service uses `bucket`, whatever this machine has for boto3."""
        return {"S3_BUCKET": bucket, "S3_ENDPOINT_URL": self.endpoint, **AWS_ENVIRON}

    @cached_property
    def client(self) -> "S3Client":
        """A client of our own, to look behind the back of the code under test."""
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        config = Config(s3={"addressing_style": "path"}, signature_version="s3v4")
        return session.client("s3", endpoint_url=self.endpoint, config=config)

    def new_bucket(self) -> str:
        """The name of a fresh, empty bucket."""
        name = f"bucket-{uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return name

    def unfinished_parts(self, bucket: str) -> int:
        """How many parts there are of uploads to `bucket` that were begun and not completed."""
        uploads = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return sum(
            len(
                self.client.list_parts(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                ).get("Parts", [])
            )
            for upload in uploads
        )

    def public_url(self, bucket: str) -> str:
        """Where anybody reads `bucket` without signature, once its ACL allows that."""
        return f"{self.endpoint}/v1/{_ACCOUNT}/{bucket}"

    def _configure(self) -> None:
        (self._folder / "devices" / "d1").mkdir(parents=True)
        (self._folder / "swift.conf").write_text(_SWIFT_CONF)
        user = pwd.getpwuid(os.geteuid()).pw_name
        for name, port in self._ports.items():
            template = _PROXY_CONF if name == "proxy" else _BACKEND_CONF
            text = template.format(name=name, port=port, folder=self._folder, user=user)
            (self._folder / f"{name}-server.conf").write_text(text)
        rings = [word for name in _BACKENDS for word in (name, str(self._ports[name]))]
        subprocess.run(  # noqa: S603 - the script above
            [sys.executable, "-c", _MAKE_RINGS, *rings], cwd=self._folder, check=True
        )

    def _answers(self, name: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=30)
        try:
            connection.request("OPTIONS", "/")
            return connection.getresponse().status > 0
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def swift_server() -> Iterator[Swift]:
    """A running Swift in a temporary folder, on ports of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="swift-", dir=_folder_with_attributes())
        )
        ports = {name: ReservedPort() for name in (*_BACKENDS, "proxy")}
        for port in ports.values():
            stack.callback(port.release)
        server = Swift(Path(folder), {name: port.number for name, port in ports.items()})
        stack.callback(server.stop)
        server.start()
        yield server


def _folder_with_attributes() -> str:
    """A folder for temporary files with user attributes, in which Swift keeps its metadata."""
    candidates = [tempfile.gettempdir(), "/var/tmp", "/dev/shm", str(Path.cwd())]  # noqa: S108
    for folder in candidates:
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.swift", b"x" * 1024)
            return folder
    raise ServerError(
        f"none of {candidates} has user extended attributes; set TMPDIR to one that has"
    )
