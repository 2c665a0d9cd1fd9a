"""Where the links of dashboards and alerts lead inside Airflow: the run that made a figure, and the report of its hour.

Both are below ``/hindcast`` of Airflow's address, for who may see the runs of the DAG::

    /hindcast/run?dag_id=hindcast_hourly__MODEL&at=MOMENT       the newest run that had been published at that moment
    /hindcast/report?dag_id=hindcast_hourly__MODEL&at=MOMENT    the newest hour that had been checked then, as a page
    …&hour=HOUR                                                 of that hour instead

A moment is what a chart has, milliseconds since 1970, or ISO text; without one it is now. A report is made when it is
asked for, from the results tables.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hindcast import config
from hindcast.errors import HindcastError, StoreError, UsageError
from hindcast.requests import read_request
from hindcast.tasks import config_place
from hindcast.window import Window, floor_hour, parse_time, text

if TYPE_CHECKING:
    from pathlib import Path

    from hindcast.config import ModelFile
    from hindcast.results.sql import Store

PREFIX = "hindcast_hourly__"
_LOOKED_AT = 100  # runs on either side of a moment
# The page brings its own scripts; with no origin of its own it can reach neither the session's cookie nor Airflow.
HEADERS = {"Content-Security-Policy": "sandbox allow-scripts allow-downloads", "Cache-Control": "no-store"}


async def answer(dags: Path, scope: Any, receive: Any, send: Any) -> None:
    """Answer a request; the application is made when it is first asked for, so that no task pays for it."""
    await create_app(dags)(scope, receive, send)


@cache
def create_app(dags: Path) -> Any:
    """The application.

    Parameters
    ----------
    dags : Path
        Folder of the DAG files, which says where the model files are.

    Returns
    -------
    fastapi.FastAPI
        Every route asks who is there; who is nobody is sent to log in.
    """
    from airflow.api_fastapi.app import API_ROOT_PATH, get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.exception_handlers import http_exception_handler
    from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse

    readers = [Depends(requires_access_dag("GET", DagAccessEntity.RUN))]
    app = FastAPI(dependencies=readers, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HTTPException)
    async def refused(request: Any, error: HTTPException) -> Any:
        if error.status_code == 401 and "text/html" in request.headers.get("accept", ""):
            here = f"{request.scope['root_path']}{request.scope['path'].removeprefix(request.scope['root_path'])}"
            return RedirectResponse(get_auth_manager().get_url_login(next_url=f"{here}?{request.url.query}"), 303)
        return await http_exception_handler(request, error)

    @app.exception_handler(HindcastError)
    async def failed(_: Any, error: HindcastError) -> Any:
        return PlainTextResponse(str(error), 503 if isinstance(error, StoreError) else 404)

    @app.get("/run")
    def run(dag_id: str, at: str | None = None, hour: str | None = None) -> Any:
        model = _model(dag_id, dags)
        found = _run_about(dag_id, model, _hour(hour)) if hour else _run_at(dag_id, model, _moment(at))
        return RedirectResponse(f"{API_ROOT_PATH}dags/{quote(dag_id)}/runs/{quote(found)}", 303)

    @app.get("/report")
    def report(dag_id: str, at: str | None = None, hour: str | None = None) -> Any:
        from hindcast.report import pages
        from hindcast.results.sql import Store

        model, store = _model(dag_id, dags), Store()
        window = _hour(hour) if hour else _checked_at(store, model, _moment(at))
        return HTMLResponse(pages.window_page(store, model, window), headers=HEADERS)

    return app


def _model(dag_id: str, dags: Path) -> ModelFile:
    if not dag_id.startswith(PREFIX):
        message = f"{dag_id!r} is no hourly DAG of Hindcast: its name begins with {PREFIX}"
        raise UsageError(message)
    return config.find(dag_id.removeprefix(PREFIX), config_place(dags))


def _moment(given: str | None) -> datetime:
    """A moment as a chart has it.

    Examples
    --------
    >>> text(_moment("1366140600000")), text(_moment("2013-04-16T19:30"))
    ('2013-04-16T19:30Z', '2013-04-16T19:30Z')
    """
    if not given:
        return datetime.now(UTC)
    if re.fullmatch(r"[0-9]{11,14}", given):
        return datetime.fromtimestamp(int(given) / 1000, UTC)
    return parse_time(given)


def _hour(given: str) -> Window:
    return Window(floor_hour(_moment(given)))


def _checked_at(store: Store, model: ModelFile, moment: datetime) -> Window:
    from sqlalchemy import func, select

    from hindcast.results import tables

    table = tables.windows.c
    due = moment - timedelta(minutes=model.schedule.settle_minutes)
    query = select(func.max(table.window_start)).where(table.model_name == model.model, table.window_end <= due)
    found = store.value(query)
    if found is None:
        message = f"no hour of {model.model} had been checked at {text(moment)}"
        raise UsageError(message)
    return Window(found)


def _run_at(dag_id: str, model: ModelFile, moment: datetime) -> str:
    """The newest run that had ended at a moment and whose figures were pushed."""
    from airflow.models.dagrun import DagRun

    for run in _runs(dag_id, DagRun.end_date <= moment, DagRun.run_after.desc()):
        request = _asked(run, model)
        if request and request.publish:
            return str(run.run_id)
    message = f"no run of {dag_id} had published anything at {text(moment)}"
    raise UsageError(message)


def _run_about(dag_id: str, model: ModelFile, window: Window) -> str:
    """The newest run about a window, among those that came right after it and the newest ones."""
    from airflow.models.dagrun import DagRun

    over = DagRun.run_after >= window.end
    newest, soonest = (_runs(dag_id, over, order) for order in (DagRun.run_after.desc(), DagRun.run_after.asc()))
    for run in [*newest, *reversed(soonest)]:
        request = _asked(run, model)
        if request and window in request.windows:
            return str(run.run_id)
    message = f"no run of {dag_id} is known to have been about {window}"
    raise UsageError(message)


def _runs(dag_id: str, condition: Any, order: Any) -> list[Any]:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    query = select(DagRun).where(DagRun.dag_id == dag_id, condition).order_by(order).limit(_LOOKED_AT)
    with create_session() as session:
        found = list(session.scalars(query))
        session.expunge_all()
    return found


def _asked(run: Any, model: ModelFile) -> Any:
    """What a run was asked to check; None for one that was asked nonsense."""
    try:
        return read_request(run, run.conf or {}, model.schedule.settle_minutes)
    except UsageError:
        return None
