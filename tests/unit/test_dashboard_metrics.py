"""Prometheus text: the share of false alarms is there once somebody labelled one, and not before."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tocsin.dashboard.metrics import COUNTERS, GAUGES, metrics_text
from tocsin.runtime.quality import false_share


def exposed(alarms: int, benign: int, confirmed: int) -> dict[str, float]:
    status = {key: number for number, key in enumerate([*COUNTERS, *GAUGES])}
    text = metrics_text(status, false_share(alarms, benign, confirmed, 0.01)).decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


def test_the_realised_share_is_absent_without_labels() -> None:
    found = exposed(7, 0, 0)
    assert "tocsin_false_alarm_share" not in found
    assert (found["tocsin_alarms"], found["tocsin_false_alarm_share_target"]) == (7.0, 0.01)


def test_the_realised_share_is_of_the_labelled_alarms() -> None:
    found = exposed(7, 1, 3)
    assert found["tocsin_false_alarm_share"] == 0.25
    assert (found["tocsin_alarms_labelled_false"], found["tocsin_alarms_labelled_right"]) == (1.0, 3.0)


def test_what_came_over_http_is_told_by_kind() -> None:
    status = dict.fromkeys([*COUNTERS, *GAUGES], 0)
    status["received"] = {"spans": 7, "http_413": 2, "waiting": 3}
    text = metrics_text(status, false_share(0, 0, 0, 0.01)).decode()
    assert 'tocsin_received_total{kind="spans"} 7.0' in text
    assert 'tocsin_received_total{kind="http_413"} 2.0' in text
    assert "tocsin_spans_waiting 3.0" in text
    assert 'kind="waiting"' not in text
