"""Read-only queries: what the lookups and the pages show."""

from app.reports.finding import body_size, find_picture, find_task, task_id_of
from app.reports.lists import CallbackFilter, list_callbacks, list_tasks
from app.reports.overview import Acceptance, Hour, Overview, overview
from app.reports.pages import TaskFilter, choices
from app.reports.problems import Problem, Trouble, worker_seen
from app.reports.rates import Figures, Spread, figures_since, summed
from app.reports.rows import TaskRow, task_rows, tasks_for_page
from app.reports.shown import entry, image_of, rfc3339, task_in_full, tasks_in_full, tasks_in_short

__all__ = [
    "Acceptance",
    "CallbackFilter",
    "Figures",
    "Hour",
    "Overview",
    "Problem",
    "Spread",
    "TaskFilter",
    "TaskRow",
    "Trouble",
    "body_size",
    "choices",
    "entry",
    "figures_since",
    "find_picture",
    "find_task",
    "image_of",
    "list_callbacks",
    "list_tasks",
    "overview",
    "rfc3339",
    "summed",
    "task_id_of",
    "task_in_full",
    "task_rows",
    "tasks_for_page",
    "tasks_in_full",
    "tasks_in_short",
    "worker_seen",
]
