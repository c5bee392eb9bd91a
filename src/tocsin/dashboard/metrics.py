"""tocsin's own health as Prometheus text. No label is ever an agent's name: cardinality stays bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

COUNTERS = {
    "events": ("tocsin_events_analysed", "Events analysed."),
    "ingested_events": ("tocsin_events_ingested", "Events made durable."),
    "evidence_stated": ("tocsin_evidence_stated", "Evidence items stated by all monitors of this process."),
    "verdicts": ("tocsin_verdicts", "Certified verdicts."),
    "agents_retired": ("tocsin_agents_retired", "Agents that operators took out of the tree's sums."),
    "refits": ("tocsin_baseline_refits", "Epochs of the tree's sums that operators opened."),
    "samples_discarded": ("tocsin_baseline_samples_discarded", "Samples that those cost."),
    "messages": ("tocsin_bus_messages", "Messages between monitors."),
    "message_bytes": ("tocsin_bus_bytes", "Bytes between monitors."),
}
GAUGES = {
    "agents": ("tocsin_agents", "Agents observed."),
    "agents_in_alarm_rule": (
        "tocsin_agents_in_alarm_rule",
        "Agents, learning or judged, over which the share of false alarms is controlled.",
    ),
    "agents_learning": ("tocsin_agents_learning", "Agents whose behaviour is still being learned."),
    "agents_flagged": ("tocsin_agents_flagged", "Agents that are certified as compromised."),
    "epoch": ("tocsin_epoch", "Latest certified epoch."),
    "backlog_events": ("tocsin_backlog_events", "Events accepted and not yet analysed."),
    "monitors": ("tocsin_monitors", "Configured monitors."),
    "tolerated_faults": ("tocsin_tolerated_faults", "Monitors that may lie or be silent."),
}
ALARMS = {
    "alarms": ("tocsin_alarms", "Certified alarms so far."),
    "false": ("tocsin_alarms_labelled_false", "Alarms that a person called benign."),
    "right": ("tocsin_alarms_labelled_right", "Alarms that a person confirmed."),
    "target": ("tocsin_false_alarm_share_target", "Target share of false alarms among alarms."),
    "realised": ("tocsin_false_alarm_share", "Share of false alarms among labelled ones; absent without labels."),
}


class _Status:
    def __init__(self, status: Mapping[str, Any], alarms: Mapping[str, Any]) -> None:
        self._status = status
        self._alarms = alarms

    def collect(self) -> list[Metric]:
        found: list[Metric] = []
        for key, (name, text) in COUNTERS.items():
            found.append(CounterMetricFamily(name, text, value=self._status[key]))
        for key, (name, text) in GAUGES.items():
            found.append(GaugeMetricFamily(name, text, value=self._status[key]))
        for key, (name, text) in ALARMS.items():
            found.append(GaugeMetricFamily(name, text, value=self._alarms[key]))  # None: no sample
        missing = self._status.get("tree", {}).get("missing", 0)
        found.append(CounterMetricFamily("tocsin_values_missing", "Numbers that events did not bring.", value=missing))
        refusals = {key: self._status.get(key, {}) for key in ("refused", "not_admitted")}
        refusals["tree_refused"] = self._status.get("tree", {}).get("refused", {})
        for key, reasons in refusals.items():
            family = CounterMetricFamily(
                f"tocsin_{key}", f"What was {key.replace('_', ' ')}, by reason.", labels=["reason"]
            )
            for reason, count in sorted(reasons.items()):
                family.add_metric([reason], count)
            found.append(family)
        received = CounterMetricFamily("tocsin_received", "What came over HTTP and what was left out.", labels=["kind"])
        came = dict(self._status.get("received", {}))
        waiting = GaugeMetricFamily("tocsin_spans_waiting", "Spans that wait for their trace.", came.pop("waiting", 0))
        for kind, count in sorted(came.items()):
            received.add_metric([kind], count)
        return [*found, received, waiting]


def metrics_text(status: Mapping[str, Any], alarms: Mapping[str, Any]) -> bytes:
    """Prometheus exposition of a status picture and of the share of false alarms (`tocsin.runtime.quality`)."""
    registry = CollectorRegistry()
    registry.register(_Status(status, alarms))
    return generate_latest(registry)
