"""The pages: a module for each, what they share in `sheet`, their wording in `wording`."""

from app.web.pages import (
    bodies,
    endpoint_actions,
    endpoints,
    key_list,
    originals,
    overview,
    public,
    rejections,
    sign_in,
    task,
    task_actions,
)
from app.web.pages.assets import static
from app.web.pages.sheet import bp, prepare

__all__ = [
    "bodies",
    "bp",
    "endpoint_actions",
    "endpoints",
    "key_list",
    "originals",
    "overview",
    "prepare",
    "public",
    "rejections",
    "sign_in",
    "static",
    "task",
    "task_actions",
]
