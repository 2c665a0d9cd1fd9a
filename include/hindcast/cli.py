"""The command line: everything that a DAG task does, without Airflow."""

from __future__ import annotations

import errno
import os
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hindcast import __version__
from hindcast.errors import ConfigError, HindcastError, UsageError
from hindcast.monitor import metrics, oncall
from hindcast.options import common as _common
from hindcast.options import say as _say
from hindcast.window import Window, floor_hour, parse_time
from hindcast.window import text as time_text

if TYPE_CHECKING:
    from hindcast.whatif import WhatIf


class _Group(click.Group):
    """Maps our errors to exit statuses, with the message and no traceback (HINDCAST_TRACEBACK=1 shows it)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HindcastError as error:
            if os.environ.get("HINDCAST_TRACEBACK"):
                raise
            click.echo(f"hindcast: {error}", err=True)
            ctx.exit(error.exit_status)
        except OSError as error:
            if error.errno == errno.EPIPE or os.environ.get("HINDCAST_TRACEBACK"):
                raise
            click.echo(f"hindcast: {error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """Look back at what a model did: data quality, drift, degradation, importance, alerts.

    Times are ISO 8601, UTC unless a zone is given. Exit status: 0 done, whatever was found; 2 bad usage or
    configuration; 3 source missing or unreadable; 4 results store; 1 anything else.
    """
    # Nothing here multiplies matrices, and starting OpenBLAS' threads costs a third of importing numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _checks(given: str | None) -> list[str]:
    from hindcast.checks import CHECKS

    wanted = [name.strip() for name in given.split(",")] if given else list(CHECKS)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        message = f"--only: unknown check {unknown[0]!r}; known: {', '.join(CHECKS)}"
        raise UsageError(message)
    findings = {"quality", "drift", "performance"}
    return [name for name in CHECKS if name in wanted or (name == "triage" and findings & set(wanted))]


@main.command()
@click.argument("model")
@click.option("--window", required=True, metavar="T", help="Hour to check, such as 2013-04-16T15.")
@click.option("--only", metavar="CHECK,…", help="quality, drift, performance, importance; all by default.")
@click.option("--as-of", metavar="T", help="What was not known then does not exist.")
@click.option("--incomplete", is_flag=True, help="Read it as it stands, though logs.ready still waits for more.")
@_common
def check(
    model: str,
    window: str,
    only: str | None,
    as_of: str | None,
    incomplete: bool,  # noqa: FBT001
    config: str | None,
    results: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Check one window of MODEL."""
    from hindcast.checks import Run, execute
    from hindcast.results import tables

    wanted = _checks(only)
    run = Run.open(model, Window.parse(window), parse_time(as_of) if as_of else None, config=config, results=results)
    if "pull" not in wanted and not run.store.rows(tables.windows, **run.key):
        wanted.insert(0, "pull")
    if "pull" in wanted and run.model.logs.ready and not incomplete:
        from hindcast.ready import refuse_unless_ready

        refuse_unless_ready(run.model, run.logs, run.window, datetime.now(UTC))
    found: dict[str, Any] = {}
    failure: HindcastError | None = None
    for name in wanted:
        try:
            found[name] = execute(run, name)
        except HindcastError as error:
            found[name] = {"status": "error", "reason": str(error)}
            failure = failure or error
            if name == "pull":
                break
        if not as_json:
            click.echo(f"{name:<12} {_facts(found[name])}")
    _say(as_json, {"model": model, "window": run.window.start, "as_of": run.as_of, "checks": found})
    if failure:
        raise failure


def _facts(facts: dict[str, Any]) -> str:
    shown = [facts["status"], *([facts["reason"]] if facts["reason"] else [])]
    for name, value in facts.items():
        if name not in {"status", "reason", "by_severity"} and value not in (None, [], {}):
            shown.append(f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "; ".join(shown)


@main.command()
@click.argument("model")
@click.option("--from", "start", required=True, metavar="T", help="First window.")
@click.option("--to", "end", required=True, metavar="T", help="End, exclusive.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes that read ahead [number of cores].")
@click.option("--only", metavar="CHECK,…", help="Checks to run; `pull` alone only profiles.")
@click.option("--again", is_flag=True, help="Check windows again that were already checked.")
@click.option("--what-if", "other", metavar="FILE", help="Write nothing; say what this model file would have raised.")
@_common
def replay(
    model: str, start: str, end: str, jobs: int | None, only: str | None, again: bool, other: str | None,  # noqa: FBT001
    config: str | None, results: str | None, as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Check every hour from T to T, each as of its own time; goes on where an earlier replay stopped.

    With --what-if nothing is checked: stored history is decided again as another model file would have.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hindcast.replay import replay as run

    first, last = parse_time(start), parse_time(end)
    if last <= first:
        message = f"--to {end} must lie after --from {start}; it is exclusive"
        raise UsageError(message)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"replay {model}", total=None)

        def progress(done: int, total: int, window: Window | None) -> None:
            bar.update(task, completed=done, total=total, description=f"replay {model} {window or ''}")

        place: dict[str, Any] = {"config": config, "results": results, "progress": progress}
        if other:
            if jobs or only or again:
                message = "--what-if decides stored history again; it takes neither --jobs nor --only nor --again"
                raise UsageError(message)
            from hindcast.whatif import what_if

            found = what_if(model, Path(other), first, last, **place)
        else:
            facts = run(model, first, last, only=_checks(only), jobs=jobs or _cores(), again=again, **place)
    if other:
        _say(as_json, {"model": model, **found.to_json()})
        if not as_json:
            _print_what_if(found)
        return
    line = (
        f"{facts['windows']} windows, {facts['skipped']} of them checked before, {facts['errors']} checks with errors"
    )
    _say(as_json, {"model": model, **facts}, line)


@main.command()
@click.argument("model")
@click.option("--from", "start", metavar="T", help="First window [logs.late_hours before the end].")
@click.option("--to", "end", metavar="T", help="End, exclusive [after the newest window that was checked].")
@_common
def sweep(
    model: str, start: str | None, end: str | None, config: str | None, results: str | None, as_json: bool  # noqa: FBT001
) -> None:  # fmt: skip
    """Look for log files that came after their window was checked, and check such windows again; nobody is paged."""
    from hindcast import config as configuration
    from hindcast.results.sql import Store
    from hindcast.sweep import last_windows
    from hindcast.sweep import sweep as run

    item, store = configuration.find(model, config), Store(results)
    given = [floor_hour(parse_time(moment)) if moment else None for moment in (start, end)]
    first, last = last_windows(store, item, given[0], given[1])
    found = run(store, item, first, last, datetime.now(UTC))
    _say(as_json, {"model": model, "from": first, "to": last, **found.to_json()}, *found.lines())
    if found.error:
        raise found.error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_what_if(found: WhatIf) -> None:
    """Alerts that were raised beside those that would have been, and both per week."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table("", "kind", "subject", "raised", "would have been")
    for outcome in found.outcomes:
        sides = [
            f"{time_text(row['opened_at'])} {row['severity']}, " + (_until(row["resolved_at"])) if row else ""
            for row in (outcome.raised, outcome.would)
        ]
        table.add_row(outcome.what, outcome.kind, outcome.subject, *sides)
    console.print(table)
    weeks = Table("week from", "raised", "would have been")
    for week in found.weeks():
        weeks.add_row(time_text(week["from"]), str(week["raised"]), str(week["would"]))
    console.print(weeks)
    counted = found.to_json()
    same, added, gone = (counted[what] for what in ("same", "added", "gone"))
    click.echo(f"{found.windows} windows decided again: {same} alerts the same, {added} added, {gone} gone")


def _until(moment: datetime | None) -> str:
    return f"resolved {time_text(moment)}" if moment else "open"


@main.command()
@click.option("--name", required=True, help="Name of the model.")
@click.option("--reference", required=True, metavar="URI", help="Training data: Parquet, a file or folder or s3://….")
@click.option("--connection", metavar="ID", help="Airflow Connection for it.")
@click.option("--task", type=click.Choice(["binary", "multiclass", "regression"]), default="binary", show_default=True)
@click.option("--positive-class", metavar="VALUE", help="Of a binary model [1].")
@_common
def init(
    name: str,
    reference: str,
    connection: str | None,
    task: str,
    positive_class: str | None,
    config: str | None,
    results: str | None,  # noqa: ARG001 - every subcommand has it
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write a model file from a reference: types, ranges, allowed values, missing rates."""
    from hindcast import config as configuration
    from hindcast.checks.reference import fit
    from hindcast.infer import infer_features, model_text
    from hindcast.sources.files import parquet_files

    remote = reference.startswith("s3://")
    source = reference if remote else str(Path(reference.removeprefix("file://")).absolute())
    positive = _positive(positive_class)
    model_text(name, task, source, {}, positive)  # refuses a name that could not stand in a path
    folder = configuration.location(config)
    path = folder if folder.suffix in {".yaml", ".yml"} else folder / f"{name}.yaml"
    if path.exists():
        message = f"{path}: is already there; remove it or choose another --name"
        raise ConfigError(message)
    draft = configuration.ModelFile.model_validate(
        {"model": name, "task": task, "logs": {"uri": "."}, "reference": {"uri": source}}
    )
    profile = fit(draft, parquet_files(source, connection=connection))
    features = infer_features(profile)
    place = source if remote else os.path.relpath(source, path.absolute().parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(model_text(name, task, place, features, positive, connection=connection), encoding="utf-8")
    configuration.load(path)
    content = {"path": str(path), "features": len(features), "rows": profile.rows}
    _say(
        as_json,
        content,
        f"{path}: {len(features)} features from {profile.rows} rows. Set logs.uri, then: hindcast validate",
    )


def _positive(text: str | None) -> str | int | float | bool | None:
    """Read a class as YAML would: 1 is a number, late is text."""
    import yaml

    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    return value if value is None or isinstance(value, str | int | float | bool) else text


@main.command()
@_common
def validate(config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Check every model file."""
    from hindcast import config as configuration

    faults, names = [], []
    for item in configuration.load_all(config):
        if isinstance(item, ConfigError):
            faults.append(str(item))
        else:
            names.append(item.model)
    place = configuration.location(config)
    _say(as_json, {"valid": names, "faults": faults}, f"{place}: {len(names)} valid: {', '.join(names) or 'none'}")
    if faults:
        raise ConfigError("\n".join(faults))


@main.command()
@click.argument("model", required=False)
@_common
def status(model: str | None, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show each model's newest window, its checks, and what is firing."""
    from hindcast import config as configuration
    from hindcast.results.sql import Store
    from hindcast.views import model_status

    models = []
    for item in [configuration.find(model, config)] if model else configuration.load_all(config):
        if isinstance(item, ConfigError):
            click.echo(f"hindcast: {item}", err=True)
        else:
            models.append(item)
    store = Store(results)
    found = [model_status(store, item) for item in models]
    lines: list[str] = []
    for entry in found:
        lines += entry.lines()
    _say(as_json, [entry.to_json() for entry in found], *lines)


@main.command()
@click.argument("model")
@click.option("--window", metavar="T", help="One hour.")
@click.option("--day", metavar="D", help="One day, UTC.")
@click.option("-o", "--output", required=True, metavar="FILE.html", help="Where to write the page.")
@_common
def report(
    model: str,
    window: str | None,
    day: str | None,
    output: str,
    config: str | None,
    results: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write one self-contained HTML page about a window or a day."""
    from hindcast import config as configuration
    from hindcast.report import pages
    from hindcast.results.sql import Store

    if (window is None) == (day is None):
        message = "give either --window T or --day D"
        raise UsageError(message)
    item, store = configuration.find(model, config), Store(results)
    if window:
        page = pages.window_page(store, item, Window.parse(window))
    else:
        page = pages.day_page(store, item, _day(day or ""))
    pages.write(Path(output), page)
    _say(
        as_json,
        {"path": output, "bytes": len(page.encode())},
        f"{output}: {len(page.encode()) / 1e6:.1f} MB, opens offline",
    )


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        message = f"--day {text!r} is no date; write it as 2013-04-16"
        raise UsageError(message) from None


@main.command()
@click.argument("model")
@click.option("--from", "start", required=True, metavar="T", help="First window.")
@click.option("--to", "end", required=True, metavar="T", help="End, exclusive.")
@_common
def diagnose(model: str, start: str, end: str, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Say where a loss comes from, and what changed with it."""
    from hindcast import config as configuration
    from hindcast.diagnosis import diagnose as run
    from hindcast.results.sql import Store

    first, last = floor_hour(parse_time(start)), parse_time(end)
    if last <= first:
        message = f"--to {end} must lie after --from {start}; it is exclusive"
        raise UsageError(message)
    found = run(Store(results), configuration.find(model, config), first, last)
    _say(as_json, found.to_json(), found.text)


@main.command()
@click.argument("model")
@click.option("--day", metavar="D", help="One day, UTC.")
@click.option("--from", "start", metavar="T", help="First window.")
@click.option("--to", "end", metavar="T", help="End, exclusive.")
@_common
def multivariate(
    model: str,
    day: str | None,
    start: str | None,
    end: str | None,
    config: str | None,
    results: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Compare all features of a day at once: reconstruction error, domain classifier, correlations."""
    from hindcast import config as configuration
    from hindcast.checks.multivariate import DAY, judge, lines
    from hindcast.results.sql import Store

    if (day is None) == (start is None) or (start is None) != (end is None):
        message = "give either --day D, or --from T and --to T"
        raise UsageError(message)
    first = parse_time(_day(day).isoformat()) if day else floor_hour(parse_time(start or ""))
    last = first + DAY if day else floor_hour(parse_time(end or ""))
    found = judge(Store(results), configuration.find(model, config), first, last)
    _say(as_json, {"model": model, "from": first, "to": last, **found}, *lines(found))


@main.command()
@click.argument("uris", nargs=-1, required=True, metavar="URI…")
@click.option("--bins", metavar="PROFILE", help="Use the bins of an earlier profile; else they are fitted.")
@click.option("-o", "--output", required=True, metavar="PROFILE", help="Where to write the profile (Parquet).")
@click.option("--n-bins", type=click.IntRange(16, 4096), default=1024, show_default=True, help="Bins to fit.")
@click.option("--connection", metavar="ID", help="Airflow Connection for s3://….")
@_common
def profile(
    uris: tuple[str, ...],
    bins: str | None,
    output: str,
    n_bins: int,
    connection: str | None,
    config: str | None,  # noqa: ARG001 - every subcommand has it
    results: str | None,  # noqa: ARG001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Profile Parquet files: the kernel alone. Rows, CPU seconds and peak memory go to stderr."""
    from hindcast.profiling import profile_files

    facts = profile_files(uris, bins, Path(output), n_bins, connection)
    click.echo(f"{facts['rows']} rows, {facts['cpu_seconds']:.2f} CPU s, {facts['peak_mb']:.0f} MB peak", err=True)
    for column, share in facts["high_cardinality"].items():
        click.echo(f"{column}: too many values; {share:.0%} of its rows have one without a bin of its own", err=True)
    _say(as_json, facts)


class _Listing(click.Group):
    """A group whose name alone lists: what follows is an action, or else the model."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@main.group(cls=_Listing)
def incidents() -> None:
    """List incidents (incidents [MODEL]), show one, or accept the new level that one is about."""


@incidents.command("list")
@click.argument("model", required=False)
@click.option("--all", "every", is_flag=True, help="Resolved ones too.")
@_common
def incidents_list(model: str | None, every: bool, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """List incidents, newest first, with their diagnosis."""
    from hindcast.results import tables
    from hindcast.results.sql import Store

    key = {"affected_model": model} if model else {}
    rows = [r for r in Store(results).rows(tables.incidents, **key) if every or r["state"] == "open"]
    rows.sort(key=lambda row: row["opened_at"], reverse=True)
    lines: list[str] = []
    for row in rows:
        lines += [*_incident_lines(row), ""]
    _say(as_json, rows, *(lines or ["no open incidents" if not every else "no incidents"]))


def _incident_lines(row: dict[str, Any]) -> list[str]:
    until = f"resolved {time_text(row['resolved_at'])}: {row['resolution']}" if row["resolved_at"] else "open"
    head = f"{row['incident_id']}  {row['severity']}  since {time_text(row['opened_at'])}, {until}"
    return [head, f"  {row['title']}", f"  likely cause: {row['root_cause']}"]


@incidents.command("show")
@click.argument("incident")
@_common
def incidents_show(incident: str, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show one incident: its alerts, since when, its diagnosis, and who accepted what."""
    from hindcast import config as configuration
    from hindcast.acceptance import alerts_of, incident_of
    from hindcast.results.sql import Store

    store = Store(results)
    row = incident_of(store, incident)
    found = alerts_of(store, configuration.find(row["affected_model"], config), row)
    lines = [*_incident_lines(row), ""]
    lines += [f"  {a['severity']}: {a['kind']} {a['metric']} of {a['subject']}; {a['life']}" for a in found]
    lines += ["", *(f"  {line}" for line in (row["description"] or "").splitlines())]
    _say(as_json, {**row, "alerts": found}, *lines)


@incidents.command("accept")
@click.argument("incident")
@click.option("--subject", metavar="S", help="Of several alerts only those about S.")
@click.option("--by", "actor", metavar="NAME", help="Who accepts it [the user of this machine].")
@click.option("--reason", default="", metavar="TEXT", help="Why it is as it should be.")
@_common
def incidents_accept(
    incident: str,
    subject: str | None,
    actor: str | None,
    reason: str,
    config: str | None,
    results: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Take the new level of an open incident as the usual one: its alerts end, its hours join the baselines."""
    import getpass

    from hindcast import config as configuration
    from hindcast.acceptance import accept, incident_of
    from hindcast.results.sql import Store

    store = Store(results)
    model = configuration.find(incident_of(store, incident)["affected_model"], config)
    done = accept(store, model, incident, subject=subject, actor=actor or getpass.getuser(), reason=reason)
    lines = [
        f"accepted: {row['kind']} of {row['subject']}, since {time_text(row['since'])}; usual from "
        f"{time_text(row['accepted_at'])} on"
        for row in done
    ]
    _say(as_json, done, *lines)


@main.group(name="audit", cls=_Listing)
def audit_group() -> None:
    """List the lines of the audit (audit [MODEL]), or verify that none was changed."""


@audit_group.command("list")
@click.argument("model", required=False)
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many of the newest lines.")
@_common
def audit_list(model: str | None, last: int, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """List who decided what, on which inputs; oldest first."""
    from hindcast.results import audit
    from hindcast.results.sql import Store

    rows = audit.lines(Store(results), **({"model_name": model} if model else {}))[-last:]
    lines = []
    for row in rows:
        when, window = (time_text(row[name]) if row[name] else "" for name in ("recorded_at", "window_start"))
        told = (when, row["actor"], row["action"], row["model_name"] or "", window)
        head = "  ".join([f"{row['sequence']:>6}", *filter(None, told)])
        lines += [head, f"        {row['content']}"]
    found = [{**row, "content": audit.content_of(row)} for row in rows]
    _say(as_json, found, *(lines or ["the audit has no lines"]))


@audit_group.command("verify")
@click.option("--expect", "expected", multiple=True, metavar="HASH", help="A newest hash of an earlier day.")
@_common
def audit_verify(expected: tuple[str, ...], config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Follow the audit's chain: exit status 0 if it is whole, 1 if a line was changed, is gone, slipped in or moved.

    Keep the newest hash elsewhere, and give it to --expect the next time: without it, lines that are gone at the end
    are found only as far as checks.triage and acceptances have rows, and a chain that was written anew is not found.
    """
    from hindcast.results import audit
    from hindcast.results.sql import Store

    store = Store(results)
    verdict = audit.verify(store, expected)
    _say(as_json, verdict.to_json(), f"{verdict.lines} lines, newest hash {verdict.head or 'none'}")
    if not verdict.whole:
        message = f"the audit of {store.shown} is not whole: {verdict.says}"
        raise HindcastError(message)


@main.command()
@click.argument("model", required=False)
@click.option("--day", metavar="D", help="Count the limits back from its end [the day of the newest window].")
@click.option("--dry-run", is_flag=True, help="Delete nothing; say what would go.")
@_common
def prune(
    model: str | None, day: str | None, dry_run: bool, config: str | None, results: str | None, as_json: bool,  # noqa: FBT001
) -> None:  # fmt: skip
    """Delete what is older than its limit, of MODEL or of every model, as the daily DAG does.

    Limits count back from the newest window, never from the clock. Windows, findings, alerts, incidents, acceptances,
    days and the audit are kept; the audit says what went.
    """
    from hindcast import config as configuration
    from hindcast import maintenance
    from hindcast.results.sql import Store

    at = datetime.combine(_day(day), datetime.min.time(), UTC) if day else None
    items = [configuration.find(model, config)] if model else configuration.load_all(config)
    store = Store(results)
    found, lines = {}, []
    for item in items:
        if isinstance(item, ConfigError):
            click.echo(f"hindcast: {item}", err=True)
            continue
        end = at or maintenance.newest_day(store, item)
        if end is None:
            lines.append(f"{item.model}: was never checked")
            continue
        counts = maintenance.retention(store, item, end, dry_run=dry_run)
        found[item.model] = {"day": f"{end:%Y-%m-%d}", "dry_run": dry_run, **counts}
        gone = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"
        lines.append(
            f"{item.model}: {'would delete' if dry_run else 'deleted'} {gone}, as of the end of {end:%Y-%m-%d}"
        )
    _say(as_json, found, *lines)


@main.command()
@click.argument("model")
@_common
def checklist(model: str, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Go through what a monitored model needs, and say what is missing."""
    from hindcast import config as configuration
    from hindcast.results.sql import Store
    from hindcast.views import checklist as run

    items = run(Store(results), configuration.find(model, config))
    lines = [f"{'ok ' if item['ok'] else 'NO '} {item['what']}: {item['says']}" for item in items]
    _say(as_json, items, *lines)


for command in (metrics, oncall):
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
