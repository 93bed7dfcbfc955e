"""Metrics and log lines of all replicas in one place, each with the replica that it is of. Stdlib only."""

from __future__ import annotations

import json
from collections.abc import Mapping

LABEL = "replica"


def merged(texts: Mapping[str, str]) -> str:
    """One Prometheus text of several, in which each series has the label `replica`.

    Args:
        texts: by replica, what `Metrics.render` writes: the lines of a metric follow its HELP and TYPE.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for replica, text in texts.items():
        head: list[str] = []
        series: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                head, series = families.setdefault(line.split(" ", 3)[2], ([line], []))
            elif line.startswith("# TYPE "):
                if line not in head:
                    head.append(line)
            elif line:
                series.append(labelled(line, replica))
    return "".join(f"{line}\n" for head, series in families.values() for line in (*head, *series))


def labelled(line: str, replica: str) -> str:
    """A line of a series with the label in front of its others; names of metrics have no braces."""
    name, brace, rest = line.partition("{")
    if brace:
        return f'{name}{{{LABEL}="{replica}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{{LABEL}="{replica}"}} {value}'


def named(line: str, replica: str) -> str:
    """A line of a replica's log with its name: in front of text, as a field of JSON."""
    if line.startswith("{"):
        try:
            return json.dumps({**json.loads(line), LABEL: replica})
        except ValueError:
            pass
    return f"{replica} {line}"
