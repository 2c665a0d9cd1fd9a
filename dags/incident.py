"""On demand: what is behind the alerts of a model between two moments, and a report to hand round.

::

    diagnose ── report
    multivariate
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, task

from hindcast import tasks
from hindcast.errors import ConfigError

DOC = """\
**An incident**: *Trigger* and name the model and the hours. `diagnose` reads the results of those hours and says what
changed first, where, and what it may come from; `report` writes an HTML page of the newest hour below `reports` of the
artifacts (its path is in the log). `multivariate` compares the sampled rows of those hours with the reference and the
days before, all features at once, and writes its rows to the table `drift`. Nothing is decided here.

The same without Airflow: `hindcast diagnose MODEL --from … --to …`, `hindcast report MODEL --window …` and
`hindcast multivariate MODEL --from … --to …`.
"""


def build() -> None:
    """Make the DAG; it knows the models whose files are right."""
    files = [item for _, item in tasks.model_files(Path(__file__).parent) if not isinstance(item, ConfigError)]
    names = sorted(model.model for model in files)
    if not names:
        return
    with DAG(
        "hindcast_incident",
        description="Diagnose a model between two moments",
        doc_md=DOC,
        schedule=None,
        start_date=datetime(2000, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=4,
        dagrun_timeout=timedelta(hours=2),
        tags=["hindcast", "incident"],
        params={
            "model": Param(names[0], type="string", enum=names, title="Model"),
            "from": Param(
                None,
                type=["null", "string"],
                title="From",
                description="First hour, ISO time: 2013-04-16T15. Empty: a day before the end.",
            ),
            "to": Param(
                None,
                type=["null", "string"],
                title="To, exclusive",
                description="Empty: the end of the last hour that is over.",
            ),
        },
        default_args=tasks.settings("hindcast"),
    ):
        folder = str(Path(__file__).parent)
        diagnose = task(task_id="diagnose", multiple_outputs=False)(tasks.diagnose)(folder)
        report = task(task_id="report", multiple_outputs=False)(tasks.report)(folder)
        diagnose >> report
        task(task_id="multivariate", multiple_outputs=False)(tasks.judge)(folder)


build()
