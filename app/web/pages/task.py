"""`/tasks/<id>`: one task with all there is to say of it."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from flask import current_app
from flask.typing import ResponseReturnValue

from app import dossiers, reports
from app.models import Scope
from app.web.auth import signed_in
from app.web.pages import timeline
from app.web.pages.sheet import bp, page
from app.web.pages.task_actions import possible
from app.web.state import services


@bp.get("/tasks/<id_>")
@signed_in(Scope.READ)
def task(id_: str) -> ResponseReturnValue:
    """One task, by our id or the provider's."""
    with services().db.reading() as db:
        dossier = dossiers.open_dossier(services(), db, reports.find_task(db, id_))
    shown = dossier.task | {"callbacks": dossier.callbacks}
    return page(
        "task.html",
        task=shown,
        partials=dossier.partials,
        keys_in_storage=dossier.keys_in_storage,
        audit=dossier.audit,
        deliveries=dossier.deliveries,
        endpoints=dossier.endpoints,
        steps=list(timeline.steps(dossier.task["timeline"])),
        curl=_curl(dossier.task["request"]),
        possible=possible(dossier.task),
    )


def _curl(request: Mapping[str, Any]) -> str:
    """The same request for a shell."""
    url = f"{current_app.config['PUBLIC_URL']}/v1/images/edits"
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    return (
        f"curl {shlex.quote(url)} \\\n"
        '  -H "Authorization: Bearer $POSTBACK_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {body}"
    )
