"""The metrics that an env server exposes to Prometheus."""

from __future__ import annotations

import functools
from typing import Literal

from overworld.service.extras import needs_extra

with needs_extra("host"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Entry = Literal["accepted", "executed", "failed", "dropped", "interrupted", "replayed", "repeated"]
"""Of the ledger: accepted = executed + failed + dropped + the commands that run now."""

_STEP_BUCKETS = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


class ServerMetrics:
    """The server's metrics, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge("overworld_sessions", "Open sessions", registry=registry)
        self.slots_free = Gauge("overworld_slots_free", "Slots that no session holds", registry=registry)
        self.calls = Counter(
            "overworld_calls", "Calls, by reason of refusal ('' if served)", ["method", "reason"], registry=registry
        )
        self.episodes = Counter("overworld_episodes", "Episodes by end", ["env", "end"], registry=registry)
        self.failures = Counter("overworld_slot_failures", "Failed commands", ["env", "reason"], registry=registry)
        self.workers_ready = Gauge("overworld_workers_ready", "Workers that can be used", registry=registry)
        self.worker_start_failures = Counter(
            "overworld_worker_start_failures", "Failed attempts to replace a worker", registry=registry
        )
        self.worker_restarts = Counter("overworld_worker_restarts", "Workers replaced", registry=registry)
        self._commands = Counter(
            "overworld_commands",
            "Commands by what became of them (docs/reliability.md): accepted = executed + failed + dropped + running",
            ["env", "worker", "entry"],
            registry=registry,
        )
        self.sent_bytes = Counter("overworld_sent_bytes", "Bytes of Step responses", registry=registry)
        self.client_slots = Gauge("overworld_client_slots", "Slots by the token's name", ["client"], registry=registry)
        self.client_received_bytes = Counter(
            "overworld_client_received_bytes", "Bytes of requests by the token's name", ["client"], registry=registry
        )
        self.client_sent_bytes = Counter(
            "overworld_client_sent_bytes", "Bytes of Step responses by the token's name", ["client"], registry=registry
        )
        self.client_calls = Counter(
            "overworld_client_calls",
            "Calls by the token's name and by reason of refusal ('' if served)",
            ["client", "reason"],
            registry=registry,
        )
        self.certificate_ends = Gauge(
            "overworld_certificate_end_seconds",
            "When the certificate in use ends, since 1970; 0: none",
            registry=registry,
        )
        self._step_seconds = Histogram(
            "overworld_step_seconds",
            "Time of one command in the simulator",
            ["env"],
            registry=registry,
            buckets=_STEP_BUCKETS,
        )

    @functools.cache  # noqa: B019 - as below
    def commands(self, env: str, worker: int, entry: Entry) -> Counter:
        """The counter of an entry of the ledger."""
        return self._commands.labels(env, worker, entry)

    @functools.cache  # noqa: B019 - one per process; `labels` takes a lock, and every step comes here
    def step_seconds(self, env: str) -> Histogram:
        """The histogram of an env."""
        return self._step_seconds.labels(env)
