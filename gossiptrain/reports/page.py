"""The page of a run: one HTML file with everything in it, that needs no network and no server."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from gossiptrain.reports.payload import payload
from gossiptrain.reports.record import RunRecord

SCRIPTS = ("replay.js", "view.js", "graph.js", "charts.js", "gantt.js", "lists.js", "main.js")


def page(record: RunRecord) -> str:
    """Returns the page of a run: an animated replay beside the curves, a log, a table and a strip for every peer."""
    return fill(
        asset("page.html"),
        title=html.escape(f"{record.title} · gossiptrain"),
        css=asset("page.css"),
        js="\n".join(asset(script) for script in SCRIPTS),
        data=embedded(payload(record)),
    )


def asset(name: str) -> str:
    """A file that belongs to the page."""
    return (files("gossiptrain.reports") / "assets" / name).read_text(encoding="utf-8")


def fill(template: str, **parts: str) -> str:
    """Puts parts where the template has {{name}}; what looks so within a part is left alone."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], template)


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand within a page: a "<" in a peer's name or in what it failed with closes no element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
