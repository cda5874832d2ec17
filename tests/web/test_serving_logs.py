"""What web processes log: every request, and never a token or a key, whatever goes wrong."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.models import Task
from app.signing import Picture
from tests.factories import SECRET_KEY, make_task, success
from tests.web.servers import Answer, Line, Server, head, web_server

# What a callback holds is nobody's business but its task's.
PRIVATE = "a picture of somebody"
BODY = json.dumps(success(prompt=PRIVATE)).encode()


def break_task(server: Server, task: Task) -> None:
    """Write into the task what no code of this version writes or reads."""
    with server.parts.db.transaction() as session:
        statement = f"UPDATE tasks SET status = 'nonsense' WHERE id = '{task.id.hex}'"  # noqa: S608
        session.connection().exec_driver_sql(statement)


def send_raw(server: Server, *lines: str) -> Answer:
    with Line(server.port) as line:
        line.send("\r\n".join([*lines, "", ""]).encode())
        return line.answer()


def everything_goes_wrong(server: Server) -> list[str]:
    """Calls of all kinds with secrets in them; gives the secrets."""
    task, broken = make_task(server.parts), make_task(server.parts)
    token, picture = (
        server.token(task),
        server.parts.signing.picture_token(Picture.OUTPUT, task.id),
    )
    server.post_back(task, BODY)
    server.post_back(task, b"nonsense")
    server.post_back(task, BODY, Content_Encoding="br")
    break_task(server, broken)
    answer = server.post_back(broken, BODY)
    assert answer.status == 500
    assert answer.json["error"]["message"] == "unexpected error"
    assert server.get(f"/v1/tasks/{broken.id}").status == 500
    for path in (f"/callbacks/{token}", f"//callbacks/{token}", f"/x/callbacks/{token}?a={token}"):
        server.call("GET", path)
    for path in (f"/images/{picture}", f"/images/{picture}.png", f"//images/{picture}"):
        server.call("GET", path)
    for first in (f"POST /callbacks/{token}", f"GET /images/{picture} HTTP/9.9"):
        assert send_raw(server, first).status == 400
    length = "Content-Length: many"
    assert send_raw(server, f"POST /callbacks/{token} HTTP/1.1", "Host: x", length).status == 400
    with Line(server.port) as line:
        line.send(head("POST", f"/callbacks/{token}", Transfer_Encoding="chunked"), b"zz\r\n")
        assert line.answer().status == 400
    form = urlencode({"api_key": server.api_key}).encode()
    server.call("POST", "/login", form, Content_Type="application/x-www-form-urlencoded")
    server.call("GET", "/v1/tasks", Authorization=f"Bearer {server.api_key} ")
    server.call("GET", f"/v1/tasks?q={server.api_key}", Authorization=f"Basic {server.api_key}")
    signatures = [secret.rpartition(".")[2] for secret in (token, server.token(broken), picture)]
    return [*signatures, server.api_key, SECRET_KEY, PRIVATE]


def test_no_line_for_people_holds_a_token_or_a_key(sqlite_url: str, tmp_path: Path) -> None:
    with web_server(sqlite_url, tmp_path, LOG_FORMAT="console", LOG_LEVEL="debug") as server:
        secrets = everything_goes_wrong(server)
        assert server.part.stop() == 0
        log = server.log

    assert "Traceback (most recent call last)" in log
    # Prettier tracebacks show what the variables held, which is what the body held.
    assert "locals" not in log
    assert "/callbacks/[redacted]" in log
    assert [secret for secret in secrets if secret in log] == []


def test_every_line_for_programs_is_json_without_a_token_or_a_key(
    sqlite_url: str, tmp_path: Path
) -> None:
    with web_server(sqlite_url, tmp_path, LOG_FORMAT="json") as server:
        secrets = everything_goes_wrong(server)
        server.call("GET", "/healthz", X_Request_Id="mine-1")
        forged = server.call("POST", "/callbacks/forged", b"{}")
        assert server.part.stop() == 0
        log = server.log

    assert [secret for secret in secrets if secret in log] == []
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    assert {"event", "level", "timestamp"} <= set.intersection(*(set(line) for line in lines))
    (failed, *_) = (line for line in lines if line["event"] == "unexpected error")
    frames = failed["exception"][0]["frames"]
    assert frames
    # What the variables held is what the body held.
    assert not [frame for frame in frames if "locals" in frame]
    by_request = {line["request_id"]: line for line in lines if line.get("action") == "request"}
    mine = by_request["mine-1"]
    assert {name: mine[name] for name in ("method", "path", "status", "address")} == {
        "method": "GET", "path": "/healthz", "status": 200, "address": "127.0.0.1",
    }  # fmt: skip
    assert mine["ms"] >= 0
    refused = [line for line in lines if line.get("action") == "reject"][-1]
    assert refused["request_id"] == forged.headers["X-Request-Id"]
    # What the server logs by itself is not about the request before it in the same thread.
    foreign = [line for line in lines if "Invalid request" in line["event"]]
    assert foreign
    assert not [line for line in foreign if "request_id" in line]
