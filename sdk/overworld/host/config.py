"""The env server's settings."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from overworld.host.callers import Quota
from overworld.service import bounds
from overworld.service.addresses import is_loopback
from overworld.service.credentials import Credentials
from overworld.service.settings import Settings


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
    tokens: Path | None = Field(
        default=None,
        description="file of lines `client: token` instead, two tokens per client at most; read again when it changes",
    )
    tls: Path | None = Field(
        default=None,
        description="folder with tls.crt and tls.key and, to ask clients for a certificate, the ca.crt that has issued "
        "it; read again when they change",
    )
    plaintext: bool = Field(default=False, description="allow listening beyond loopback without TLS")
    insecure: bool = Field(default=False, description="allow listening beyond loopback without a token")
    allow_expert: bool = Field(default=False, description="give expert advice to sessions that ask for it")
    slot_bytes: int = Field(default=int(bounds.SLOT_IMAGES), ge=1, description="bound of the images of one observation")
    quota: Quota = Field(default=Quota(), description="what each client may take, by its token's name")
    quotas: dict[str, Quota] = Field(default={}, description="the same for single names, as in quotas.team-a.slots=16")
    step_timeout: float = Field(
        default=float(bounds.STEP), gt=0, description="seconds after which a hanging step is given up"
    )
    grace: float = Field(default=30.0, ge=0, description="seconds that running sessions get after SIGTERM")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="port of /metrics for Prometheus; 0: none")
    openenv_port: int = Field(
        default=0, ge=0, le=65535, description="port for clients of OpenEnv, HTTP and WebSocket; 0: none"
    )
    registry: str = Field(default="", description="URL of a Redis to announce the server in; empty: none")
    redis_password: str = Field(default="", description="password of the URL's user in Redis", repr=False, exclude=True)
    advertise: str = Field(default="", description="address that the registry gives to clients; empty: host:port")

    @model_validator(mode="after")
    def _check(self) -> ServerConfig:
        beyond = not is_loopback(self.host)
        if beyond and not (self.token or self.tokens or self.insecure):
            raise ValueError(
                f"listening on {self.host} without a token lets anyone in reach use this server: set OVERWORLD_TOKEN, "
                "or listen on 127.0.0.1, or say --insecure"
            )
        if beyond and not (self.tls or self.plaintext):
            raise ValueError(
                f"listening on {self.host} without TLS lets anyone in between read and change what is sent: name a "
                "folder with tls.crt and tls.key, --tls DIR, or listen on 127.0.0.1, or say --plaintext"
            )
        if self.token and self.tokens:
            raise ValueError("token and tokens are both set; keep one")
        if self.registry:
            from overworld.redis_registry import connection_arguments  # only this needs the package redis

            connection_arguments(self.registry, self.redis_credentials())  # raises SettingsError
            if not self.advertise and not is_loopback(self.host):
                raise ValueError(f"clients cannot reach a server at {self.host}: name its address with --advertise")
        return self

    def redis_credentials(self) -> Credentials:
        """For announcing the server. Raises SettingsError."""
        return Credentials.load(
            token="", tokens=None, tls=self.tls, plaintext=self.plaintext, redis_password=self.redis_password
        )
