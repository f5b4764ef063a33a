"""What `/metrics` says, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from prefdistill.serve.routing import Findings
from prefdistill.served import Served

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Gauges:
    """Counters of one server; they begin at 0 when it starts."""

    def __init__(self, wanted: float, expected: float) -> None:
        """Make them, with the fallback share that is wanted and the one that validation drafts had."""
        disable_created_metrics()  # a second series for each, of which nobody here has a use
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"prefdistill_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"prefdistill_{name}", text, ["route"], buckets=SECONDS, registry=registry)

        self.requests = counter("requests", "Answered requests, by who answered and why.", "route", "reason")
        self.refused = counter("refused_requests", "Requests that got an error before anybody was asked.", "status")
        self.fired = counter("test_fired", "Tests that spoke against the student's answer.", "test")
        self.gates = counter("gate_failures", "Rubric gates that the student's draft failed.", "gate")
        self.not_applied = counter(
            "gate_not_applied", "Requests to which a gate did not apply: a field is missing, say.", "gate"
        )
        self.seconds = histogram("request_seconds", "From a request's arrival to the end of its answer.")
        self.first = histogram("first_token_seconds", "From a request's arrival to the first text of its answer.")
        self.tokens = counter("tokens", "Tokens of answered requests.", "route", "kind")
        self.usd = counter("teacher_usd", "What the teacher's answers cost, US dollars, where it is known.")
        self.unpriced = counter("teacher_unpriced_answers", "Answers of the teacher with an unknown cost.")
        self.in_flight = Gauge("prefdistill_requests_in_flight", "Requests being answered.", registry=registry)
        self.restarts = counter("student_restarts", "Times that the student's process was started again.")
        self.log_lost = counter("log_rows_lost", "Rows that could not be written to the log.")
        self.judged = counter("shadow_judged", "Answers judged in the background.", "route")
        self.score = counter("shadow_score", "Sum of their scores; over the number judged it is the mean.", "route")
        self.not_judged = counter("shadow_not_judged", "Sampled answers that were not judged, and why.", "why")
        for name, text, value in (
            ("fallback_share_wanted", "The fallback share that was asked for.", wanted),
            ("fallback_share_expected", "The fallback share on the validation split.", expected),
        ):
            Gauge(f"prefdistill_{name}", text, registry=registry).set(value)

    def allow(self, usd: float, left: Callable[[], float]) -> None:
        """Show what the teacher's answers may cost a day, and what of it is left."""
        allowed = "What the teacher's answers may cost a day (UTC), US dollars."
        Gauge("prefdistill_teacher_usd_allowed", allowed, registry=self._registry).set(usd)
        rest = "What is left of it today, neither spent nor set aside for answers in flight, US dollars."
        Gauge("prefdistill_teacher_usd_left", rest, registry=self._registry).set_function(left)

    def count(self, row: Served, findings: Findings) -> None:
        """Count an answered request."""
        self.requests.labels(row.route, row.reason).inc()
        for test in findings.fired:
            self.fired.labels(test).inc()
        for gate in findings.gates:
            self.gates.labels(gate).inc()
        for gate in findings.not_applied:
            self.not_applied.labels(gate).inc()
        self.seconds.labels(row.route).observe(row.seconds)
        if row.first_token_seconds is not None:
            self.first.labels(row.route).observe(row.first_token_seconds)
        self.tokens.labels(row.route, "prompt").inc(row.prompt_tokens or 0)
        self.tokens.labels(row.route, "completion").inc(row.completion_tokens or 0)
        if row.usd is None:
            self.unpriced.inc()
        else:
            self.usd.inc(row.usd)

    def text(self) -> bytes:
        """Return what Prometheus reads."""
        return generate_latest(self._registry)
