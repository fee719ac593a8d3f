"""The env server's settings."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from overworld.service.settings import Settings, is_loopback


class ServerConfig(Settings):
    """Serves simulators over gRPC."""

    positional: ClassVar[tuple[str, ...]] = ("envs",)

    envs: list[str] = Field(
        min_length=1, description="simulators (gym_cards), env ids (gym_cards/EZPoints), module:Class"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=50051, ge=0, le=65535, description="port to listen on; 0: a free one")
    slots: int = Field(default=64, ge=1, description="episodes that can be played at once")
    workers: int = Field(default=0, ge=0, description="processes that run simulators; 0: one per core")
    token: str = Field(default="", description="bearer token that clients must send", repr=False, exclude=True)
    insecure: bool = Field(default=False, description="allow listening beyond loopback without a token")
    allow_expert: bool = Field(default=False, description="give expert advice to sessions that ask for it")
    slot_bytes: int = Field(default=16 << 20, ge=1, description="bound of the images of one observation")
    step_timeout: float = Field(default=60.0, gt=0, description="seconds after which a hanging step is given up")
    grace: float = Field(default=30.0, ge=0, description="seconds that running sessions get after SIGTERM")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="port of /metrics for Prometheus; 0: none")
    registry: str = Field(default="", description="URL of a Redis to announce the server in; empty: none")
    advertise: str = Field(default="", description="address that the registry gives to clients; empty: host:port")

    @model_validator(mode="after")
    def _check(self) -> ServerConfig:
        if not self.token and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"listening on {self.host} without a token lets anyone in reach use this server: set OVERWORLD_TOKEN, "
                "or listen on 127.0.0.1, or say --insecure"
            )
        if self.registry:
            from overworld.redis_registry import RedisRegistry  # only this needs the package redis

            RedisRegistry(self.registry)  # raises SettingsError for what is not the URL of one
            if not self.advertise and not is_loopback(self.host):
                raise ValueError(f"clients cannot reach a server at {self.host}: name its address with --advertise")
        return self
