"""The six checks that a DAG task and a command share: pull, quality, drift, performance, importance, triage."""

from hindcast.checks.run import CHECKS, Result, Run, commit, compute, execute

__all__ = ["CHECKS", "Result", "Run", "commit", "compute", "execute"]
