"""Hindcast's part of Airflow's own processes: the scheduler imports once what every task would import again."""

from __future__ import annotations

import sys

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


class HindcastPlugin(AirflowPlugin):
    """What Airflow is told of."""

    name = "hindcast"
    listeners = [Preload()]  # noqa: RUF012 - Airflow's base class declares it as an instance's
