"""`/tasks/<id>`: one task with all there is to say of it."""

from collections.abc import Mapping
from typing import Any

from flask import current_app
from flask.typing import ResponseReturnValue

from app import dossiers, reports
from app.models import Endpoint, Scope
from app.web.auth import signed_in
from app.web.pages import commands, timeline, wording
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
    names = {item["id"]: _name(item, dossier.endpoints) for item in dossier.deliveries}
    told = timeline.deliveries(dossier.deliveries, shown["status"], names)
    entries = sorted([*shown["timeline"], *told], key=lambda entry: entry["at"])
    return page(
        "task.html",
        task=shown,
        partials=dossier.partials,
        keys_in_storage=dossier.keys_in_storage,
        audit=dossier.audit,
        deliveries=dossier.deliveries,
        names=names,
        steps=list(timeline.steps(entries)),
        curl=commands.curl(current_app.config["PUBLIC_URL"], shown),
        possible=possible(dossier.task),
        can_be_asked=services().providers[shown["provider"]].lookup is not None,
    )


def _name(delivery: Mapping[str, Any], endpoints: Mapping[str, Endpoint]) -> str:
    """Whom it is for, without the secrets that an address may hold."""
    endpoint = endpoints.get(delivery["endpoint_id"])
    if endpoint is None:
        return f"{wording.host(delivery['url'])} (the task's own callback_url)"
    host = wording.host(endpoint.url)
    return f"{host} ({wording.clip(endpoint.description, 60)})" if endpoint.description else host
