"""Commands about what on-call people look at: pushed metrics."""

from __future__ import annotations

import click

from hindcast.options import common, say


@click.group()
def metrics() -> None:
    """Metrics on the Pushgateway: push them again, delete those of a retired model."""


@metrics.command("push")
@common
def metrics_push(config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Push the newest committed metrics of every model again, such as after a restart of the gateway."""
    from hindcast import push
    from hindcast.results.sql import Store

    found = push.drain(Store(results), again=True)
    say(as_json, found, f"{found['pushed']} groups pushed" + (f"; {found['reason']}" if found["reason"] else ""))
    if found.get("refused"):
        message = f"{found['refused']} groups were refused"
        raise push.PushRefused(message)


@metrics.command("retire")
@click.argument("model")
@common
def metrics_retire(model: str, config: str | None, results: str | None, as_json: bool) -> None:  # noqa: ARG001, FBT001
    """Delete the metrics of MODEL from the gateway; results stay. Remove its model file first, or they come back."""
    from hindcast import push
    from hindcast.errors import UsageError
    from hindcast.results.sql import Store

    gone = push.retire(Store(results), model)
    if not gone:
        message = f"{model!r} has no metrics in the outbox of this results store; nothing was deleted"
        raise UsageError(message)
    say(as_json, {"model": model, "deleted": gone}, f"{model}: deleted {', '.join(gone)}")
