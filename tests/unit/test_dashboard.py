"""The Grafana dashboard asks for nothing that is not counted, and leaves nothing out."""

import json
import re
from pathlib import Path
from typing import Any

from actors.metrics import BY_NAME, Metric

FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "jamjet.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
EXPOSED: dict[str, Metric] = {name: metric for metric in BY_NAME.values() for name in metric.exposed}
ADDED = {"le", "process"}
"""Labels that the exposition adds."""


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_every_panel_asks_for_something() -> None:
    assert len(panels()) >= 20
    assert all(panel["targets"] for panel in panels())


def test_every_name_in_a_query_is_counted() -> None:
    for query in queries():
        names = re.findall(r"jamjet_\w+", query)
        assert names, query
        assert set(names) <= EXPOSED.keys(), query


def test_every_label_in_a_query_is_one_of_its_metric() -> None:
    for query in queries():
        known = {label for name in re.findall(r"jamjet_\w+", query) for label in EXPOSED[name].labels} | ADDED
        grouped = {part.strip() for by in re.findall(r"by \(([^)]*)\)", query) for part in by.split(",")}
        matched = set(re.findall(r"[{,](\w+)=~?\"", query))
        assert grouped | matched <= known, query


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {EXPOSED[name].name for query in queries() for name in re.findall(r"jamjet_\w+", query)}
    assert shown == set(BY_NAME)


def test_ids_are_unique_and_panels_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
