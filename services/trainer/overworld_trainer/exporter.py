"""The newest metrics for Prometheus.

`charts/success_rate/<env>` is overworld_trainer_charts_success_rate{env="<env>"}.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping

from overworld.errors import SettingsError
from overworld.service.exposition import MetricsServer
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from overworld_trainer.sinks.sink import Sink

_EVALUATION = "eval/"
_NO_NAME = re.compile(r"[^a-z0-9_]+")


class Exporter(Sink, Collector):
    """Holds the newest metrics until Prometheus asks for them."""

    def __init__(self) -> None:
        self._newest: dict[str, float] = {}

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Takes metrics; `updates` is how many have been made. Those of an evaluation hold until the next one."""
        if self._newest.get("updates") != update + 1:
            self._newest = {name: value for name, value in self._newest.items() if name.startswith(_EVALUATION)}
        self._newest |= {"updates": update + 1, "env_steps": env_steps, **metrics}

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The newest metrics as Prometheus wants them."""
        families: dict[str, GaugeMetricFamily] = {}
        for path, value in self._newest.items():
            group, _, rest = path.partition("/")
            name, _, env = rest.partition("/")
            name = "overworld_trainer_" + _NO_NAME.sub("_", f"{group}_{name}".strip("_").lower())
            family = families.setdefault(name, GaugeMetricFamily(name, f"{path}, newest value", labels=["env"]))
            family.add_metric([env], value)
        return families.values()


@contextlib.contextmanager
def serve_metrics(host: str, port: int) -> Iterator[Exporter]:
    """An exporter that is served as `/metrics` at `host:port`; port 0: not at all.

    Raises SettingsError if that port cannot be had.
    """
    exporter = Exporter()
    if not port:
        yield exporter
        return
    registry = CollectorRegistry()
    registry.register(exporter)
    try:
        server = MetricsServer(host, port, registry)
    except OSError as error:
        raise SettingsError(
            f"metrics_port: {host}:{port} cannot be listened on ({error.strerror}); choose another port"
        ) from None
    server.start()
    try:
        yield exporter
    finally:
        server.stop()
