"""The dashboard shows metrics that exist, and all of ours."""

import json
import re
from pathlib import Path

from ray.dashboard.modules.reporter import reporter_agent

from motif import status
from motif.on_ray import metrics

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "deploy" / "grafana" / "motif.json").read_text()
)


def shown() -> set[str]:
    text = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    return set(re.findall(r"\b(?:ray|motif)_\w+", text))


def told_between_jobs() -> set[str]:
    """Names that `motif status --prometheus` prints, of a table and of an archive."""
    table = {
        "kind": "table",
        "uri": "/db/creators.lance",
        "running": None,
        "live": {"version": 3, "rows": 7},
        "live_published_at": "2026-01-01T00:00:00+00:00",
    }
    refresh = {"started_at": "2026-01-01T00:00:00+00:00", "seconds": 5.0, "exit_code": 0}
    archive = {"kind": "archive", "uri": "/archive", "running": None, "refreshes": [refresh]}
    text = status.as_prometheus(table) + status.as_prometheus(archive)
    return set(re.findall(r"^(motif_\w+)\{", text, re.MULTILINE))


def test_every_metric_exists_and_each_of_ours_is_shown():
    ours = {metric.exported for metric in metrics.ALL}
    of_ray = {f"ray_{name}" for name in reporter_agent.METRICS_GAUGES} | {"ray_object_store_memory"}
    found = shown()
    assert found - of_ray == ours | told_between_jobs()
    assert found & of_ray


def test_panels_stand_beside_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
