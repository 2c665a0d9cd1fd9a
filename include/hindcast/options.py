"""What every subcommand has: options, and output for people or as JSON."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from hindcast.window import text as time_text

if TYPE_CHECKING:
    from collections.abc import Callable


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that every subcommand has."""
    options = (
        click.option(
            "--config", metavar="PATH", help="Model files: a folder or a file [HINDCAST_CONFIG, include/models]."
        ),
        click.option(
            "--results", metavar="URL", help="Results store [HINDCAST_RESULTS, sqlite:///.hindcast/results.db]."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def say(as_json: bool, content: Any, *lines: str) -> None:  # noqa: FBT001 - as click gives it
    """Print `content` as JSON, or `lines` for people."""
    if as_json:
        click.echo(json.dumps(content, indent=2, default=plain))
    else:
        for line in lines:
            click.echo(line)


def plain(value: object) -> str:
    """What JSON has no type for."""
    return time_text(value) if isinstance(value, datetime) else str(value)
