"""Dashboard, alerts and the page for those who are called: they speak of metrics that there are."""

from __future__ import annotations

import re

import yaml

from tests.queries import OF_ALL, PROMETHEUS, ROOT, dashboard, groupings, panel_queries, records, rules, selectors
from tgi_server.config.schema import ServerConfig
from tgi_server.telemetry.names import FAMILIES, Family

PAGE = (ROOT / "docs/operating.md").read_text()
RULES = [(rule["record"], rule["expr"]) for rule in records()] + [(rule["alert"], rule["expr"]) for rule in rules()]
QUERIES = [*panel_queries(), *RULES]


def family(name: str) -> Family:
    """Of a series: that of a histogram has a suffix."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if name not in FAMILIES and FAMILIES[base].kind == "histogram":
        return FAMILIES[base]
    assert FAMILIES[name].kind != "histogram", f"{name} is asked for without a suffix"
    return FAMILIES[name]


def test_queries_ask_for_what_there_is() -> None:
    for place, query in QUERIES:
        read = [(family(name), labels) for name, labels in selectors(query) if name != "up"]
        assert read or query.startswith("up"), f"{place}: nothing is read"
        known = OF_ALL.union(*(each.labels for each, _ in read))
        assert groupings(query) <= known, f"{place}: {query}"
        for each, labels in read:
            assert set(labels) <= OF_ALL | set(each.labels), f"{place}: {query}"
            for label, pattern in labels.items():
                values = each.labels.get(label)
                if isinstance(values, tuple):
                    assert set(pattern.split("|")) <= set(values), f"{place}: {query}"


def test_counters_are_rates_and_gauges_are_not() -> None:
    for place, query in QUERIES:
        for name, _ in selectors(query):
            if name == "up":
                continue
            asked = re.search(rf"\b(rate|increase)\({name}\b|\b{name}:increase", query)
            assert (asked is None) is (family(name).kind == "gauge"), f"{place}: {query}"


def test_recorded_series_are_those_that_alerts_read() -> None:
    told = {rule["record"]: rule["expr"] for rule in records()}
    read = {name for rule in rules() for name in re.findall(r"\w+:\w+:\w+", rule["expr"])}
    assert read == told.keys()
    for name, query in told.items():
        labels, metric, _ = name.split(":")
        assert {metric} == {read for read, _ in selectors(query)} - {"tgi_info"}
        assert groupings(query) == {"job", *labels.split("_")}


def test_the_dashboard_is_one() -> None:
    read = dashboard()
    panels = read["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 30
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or all(target["expr"] for target in panel["targets"])
        for target in panel.get("targets", []):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            known = OF_ALL.union(*(family(name).labels for name, _ in selectors(target["expr"])))
            assert named <= known, panel["title"]
            if (told := groupings(target["expr"]) - {"le"}) and panel["type"] == "timeseries":
                assert named == told, f"{panel['title']}: its series cannot be told apart"
    variables = {variable["name"] for variable in read["templating"]["list"]}
    used = set(
        re.findall(r"\$\{?(\w+)", " ".join(target["expr"] for panel in panels for target in panel.get("targets", [])))
    )
    assert used - {"__rate_interval"} <= variables == {"datasource", "job", "instance"}


def test_every_alert_says_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert names == re.findall(r"^### (Tgi\w+)$", PAGE, re.MULTILINE), "in the order of the file"
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        section = PAGE.split(f"### {rule['alert']}\n")[1].split("\n## ")[0].split("\n### ")[0]
        assert len(section.split()) > 20


def test_every_alert_has_a_panel() -> None:
    told = " ".join(panel.get("description", "") for panel in dashboard()["panels"])
    assert set(re.findall(r"\bTgi\w+", told)) == {rule["alert"] for rule in rules()}


def test_every_alert_is_tried() -> None:
    """By `alerts.test.yml`, which tests/integration/test_prometheus.py gives to promtool."""
    tried = (PROMETHEUS / "alerts.test.yml").read_text()
    assert all(f'alertname="{rule["alert"]}"' in tried for rule in rules())


def test_the_page_tells_of_every_metric_and_of_no_other() -> None:
    told = set(re.findall(r"`((?:tgi|process)_[a-z_]+)(?:\{[a-z_,]+\})?`", PAGE))
    assert told - {"tgi_batch_concat_duration"} == set(FAMILIES)


def test_prometheus_looks_at_the_servers_port() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "tgi"
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{ServerConfig().port}"]
