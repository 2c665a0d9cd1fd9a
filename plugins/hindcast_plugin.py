"""Hindcast's part of Airflow's own processes.

The scheduler imports once what every task would import again; the api-server has two addresses more, to which
dashboards link: the run of an hour, and its report.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class Preload:
    """With LocalExecutor, a task is a fork of a fork of the scheduler, and has what the scheduler imported before."""

    @hookimpl
    def on_starting(self, component: object) -> None:
        """Import, before the scheduler starts its workers; the other components run no tasks."""
        if type(component).__name__ == "Job" and sys.argv[1:2] == ["scheduler"]:
            from hindcast.tasks import preload

            preload()


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Answer below ``/hindcast``; what answers is imported when it is first asked."""
    from hindcast.ui import answer

    await answer(Path(__file__).parents[1] / "dags", scope, receive, send)


class HindcastPlugin(AirflowPlugin):
    """What Airflow is told of."""

    name = "hindcast"
    # Airflow's base class declares both as an instance's.
    listeners = [Preload()]  # noqa: RUF012
    fastapi_apps = [{"app": pages, "url_prefix": "/hindcast", "name": "hindcast"}]  # noqa: RUF012
