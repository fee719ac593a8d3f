"""The metrics that a policy server exposes to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """The server's metrics, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "overworld_requests", "Requests by route and status", ["path", "status"], registry=registry
        )
        self.client_requests = Counter(
            "overworld_client_requests",
            "Requests by the key's name and by status",
            ["client", "status"],
            registry=registry,
        )
        self.in_flight = Gauge("overworld_chats_in_flight", "Chats that are being answered", registry=registry)
        self.models_loaded = Gauge("overworld_models_loaded", "Models in memory", registry=registry)
        self.models_used = Gauge("overworld_models_used", "Uses of models by chats in flight", registry=registry)
        self.seconds = Histogram(
            "overworld_chat_seconds", "Time to answer a chat", ["model"], registry=registry, buckets=_SECONDS
        )
        self.prompt_tokens = Counter("overworld_prompt_tokens", "Tokens of prompts", ["model"], registry=registry)
        self.reply_tokens = Counter("overworld_reply_tokens", "Tokens of replies", ["model"], registry=registry)
