"""What /metrics tells Prometheus: requests, their times, the queue, refusals, the process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The figures of one app; each app has its own."""

    def __init__(self, waiting: Callable[[], float], busy: Callable[[], float]) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        # To look up a figure by its labels takes longer than to count.
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "embervlm_requests",
            "Requests, by route, method and status.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self.request_s = Histogram(
            "embervlm_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.engine_s = Histogram(
            "embervlm_engine_seconds",
            "Time of a worker for one request.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.refused = Counter(
            "embervlm_queue_refusals",
            "Requests that found no place in the queue.",
            registry=self._registry,
        )
        self.dropped = Counter(
            "embervlm_disconnects",
            "Requests whose client went away before the answer.",
            registry=self._registry,
        )
        for name, text, value in (
            ("embervlm_queue_waiting", "Requests that wait for a worker.", waiting),
            ("embervlm_workers_busy", "Workers that work.", busy),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def note(self, route: str, method: str, status: int, took_s: float) -> None:
        """Count a request and its time."""
        key = route, method, status
        known = self._of_requests.get(key)
        if known is None:
            counted = self.requests.labels(route, method, str(status))
            known = self._of_requests[key] = counted, self.request_s.labels(route)
        known[0].inc()
        known[1].observe(took_s)

    def text(self) -> bytes:
        """Return all figures in Prometheus's text form."""
        return generate_latest(self._registry)
