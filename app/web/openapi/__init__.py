"""`/openapi.json` and `/docs`: the whole interface, from one description.

`operations` has a row for each view, `schemas` the shapes, `submission` what the providers' rules
say; `document` puts them together, and `chapters` is the same for people.
"""

import json
import re
from typing import Any, cast

from flask import Blueprint, Response, current_app, render_template
from flask.typing import ResponseReturnValue
from markupsafe import Markup, escape

from app.web.auth import public
from app.web.openapi.chapters import chapters, limits, needs, shapes
from app.web.openapi.document import document
from app.web.state import services

bp = Blueprint("openapi", __name__)


@bp.app_template_filter()
def marked(text: str) -> Markup:
    """Text with `words between backticks` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


@bp.get("/openapi.json")
@public
def openapi() -> ResponseReturnValue:
    """This description, as OpenAPI 3.1."""
    return Response(json.dumps(_document()), mimetype="application/json")


@bp.get("/docs")
@public
def docs() -> ResponseReturnValue:
    """This description, for people."""
    whole = _document()
    return render_template(
        "docs.html", document=whole, chapters=chapters(whole), shapes=shapes(whole),
        limits=limits(), needs=needs(),
    )  # fmt: skip


def _document() -> dict[str, Any]:
    # Once: nothing of it changes while the process runs.
    made = current_app.extensions
    if "openapi" not in made:
        made["openapi"] = document(current_app, services().config)
    return cast(dict[str, Any], made["openapi"])
