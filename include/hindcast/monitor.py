"""Commands about what on-call people look at: pushed metrics, rules of Prometheus, who is on call."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hindcast.errors import UsageError
from hindcast.options import common, say

ROTA = "include/oncall.yaml"
_ROTA = click.option("--rota", default=ROTA, show_default=True, metavar="FILE", help="Who is on call.")
_OUTPUT = click.option("-o", "--output", metavar="FILE", help="Where to write it [standard output].")


@click.group()
def metrics() -> None:
    """What Prometheus is given: push metrics again, delete a retired model's, write stored hours and models' rules."""


@metrics.command("push")
@common
def metrics_push(config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Push the newest committed metrics of every model again, such as after a restart of the gateway."""
    from hindcast import push
    from hindcast.errors import PushRefused
    from hindcast.results.sql import Store

    found = push.drain(Store(results), again=True)
    say(as_json, found, f"{found['pushed']} groups pushed" + (f"; {found['reason']}" if found["reason"] else ""))
    if found.get("refused"):
        message = f"{found['refused']} groups were refused"
        raise PushRefused(message)


@metrics.command("retire")
@click.argument("model")
@common
def metrics_retire(model: str, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Delete the metrics of MODEL from the gateway; results stay. Remove its model file first, or they come back."""
    from hindcast import push
    from hindcast.results.sql import Store

    gone = push.retire(Store(results), model)
    if not gone:
        message = f"{model!r} has no metrics in the outbox of this results store; nothing was deleted"
        raise UsageError(message)
    say(as_json, {"model": model, "deleted": gone}, f"{model}: deleted {', '.join(gone)}")


@metrics.command("history")
@click.argument("model")
@click.option("--from", "start", required=True, metavar="T", help="Since when.")
@click.option("--to", "end", required=True, metavar="T", help="Until when, exclusive.")
@click.option("-o", "--output", metavar="FILE", help="Where to write it [standard output].")
@common
def metrics_history(
    model: str,
    start: str,
    end: str,
    output: str | None,
    config: str | None,
    results: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write what was known of MODEL then as OpenMetrics, for `promtool tsdb create-blocks-from openmetrics`."""
    from hindcast import config as configuration
    from hindcast.history import openmetrics
    from hindcast.results.sql import Store
    from hindcast.window import parse_time

    lines = openmetrics(Store(results), configuration.find(model, config), parse_time(start), parse_time(end))
    if output is None:
        for line in lines:
            click.echo(line)
        return
    count = 0
    try:
        with Path(output).open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(f"{line}\n")
                count += not line.startswith("#")
    except OSError as error:
        message = f"{output}: cannot be written: {error}"
        raise UsageError(message) from error
    say(as_json, {"path": output, "samples": count}, f"{output}: {count} samples")


@metrics.command("rules")
@_ROTA
@_OUTPUT
@common
def metrics_rules(
    rota: str,
    output: str | None,
    config: str | None,
    results: str | None,  # noqa: ARG001 - every subcommand has it
    as_json: bool,  # noqa: FBT001
) -> None:
    """Write the rule file that tells Prometheus the models' owners and limits."""
    from hindcast import config as configuration
    from hindcast import oncall as calls
    from hindcast import prometheus
    from hindcast.errors import ConfigError

    models = list(configuration.load_all(config))
    faults = [str(item) for item in models if isinstance(item, ConfigError)]
    if faults:
        raise ConfigError("\n".join(faults))
    until = calls.ends(calls.load(Path(rota))) if Path(rota).exists() else None
    found = prometheus.rules([item for item in models if not isinstance(item, ConfigError)], until)
    _write(output, found, "`hindcast metrics rules`, from the model files", as_json=as_json)


@click.command()
@click.option("--at", "moment", metavar="T", help="At another moment than now.")
@click.option("--alertmanager", is_flag=True, help="Write Alertmanager's configuration instead.")
@click.option("--secrets", metavar="DIR", help="Where Alertmanager finds its secrets.")
@_ROTA
@_OUTPUT
@common
def oncall(
    moment: str | None,
    alertmanager: bool,  # noqa: FBT001
    secrets: str | None,
    rota: str,
    output: str | None,
    config: str | None,  # noqa: ARG001 - every subcommand has it
    results: str | None,  # noqa: ARG001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Say who is on call, until when, and who is next; or render the rotation into Alertmanager's routes."""
    from hindcast import oncall as calls
    from hindcast.window import parse_time

    given = calls.load(Path(rota))
    if alertmanager:
        found = calls.alertmanager(given, secrets or calls.SECRETS)
        _write(output, found, "`hindcast oncall --alertmanager`, from oncall.yaml", as_json=as_json)
        return
    at = parse_time(moment) if moment else datetime.now(UTC)
    rows, lines = [], []
    for name, rotation in given.rotations.items():
        row = calls.standing(rotation, given.until, at)
        rows.append({"rotation": name, "owners": list(rotation.owners), **row})
        lines.append(f"{name}: {calls.said(row)}")
    say(as_json, rows, *lines)


def _write(output: str | None, content: dict[str, Any], by: str, *, as_json: bool) -> None:
    """YAML, or JSON; a rule or an interval stands on one line, so that a change is one line."""
    import yaml

    if as_json:
        say(True, content)  # noqa: FBT003
        return
    text = f"# Written by {by}; `make monitoring` writes it again.\n"
    text += yaml.safe_dump(content, sort_keys=False, width=100_000, default_flow_style=None, allow_unicode=True)
    if output:
        Path(output).write_text(text, encoding="utf-8")
    else:
        click.echo(text, nl=False)
