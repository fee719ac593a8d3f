"""The settings that every command has in which a model at a server plays on env servers."""

from __future__ import annotations

from pydantic import Field

from overworld.client.settings import ClientSettings
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.openai_client import OpenAIModel
from overworld.service.secret import secret


class ModelSettings(ClientSettings):
    """Base of the settings of a command that has models play. Their server's key is taken from OPENAI_API_KEY."""

    url: str = Field(default="http://127.0.0.1:8000/v1", description="an OpenAI-compatible server")
    servers: str = Field(default="127.0.0.1:50051", description="env servers: addresses, or rediss://host:port/0")
    recipe: Recipe | None = Field(default=None, description="the prompt's recipe; null: the model's own")
    temperature: float = Field(default=0.0, ge=0, description="of sampling; 0 is greedy")
    max_tokens: int = Field(default=256, ge=1, description="longest reply")
    slots: int = Field(default=16, ge=1, description="episodes played at once")
    compress: bool = Field(default=False, description="have env servers compress frames: worth it on slow links")
    timeout: float = Field(default=60.0, gt=0, description="seconds to wait for a lost server, of envs or of the model")

    def open_model(self, name: str) -> OpenAIModel:
        """The model of that name, to be closed."""
        return OpenAIModel(
            self.url,
            name,
            api_key=secret("OPENAI_API_KEY"),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            concurrency=self.slots,
            retry_budget=self.timeout,
        )

    def names_of(self, name: str) -> list[str]:
        """What a name means now: that of a checkpoint, or of several. Raises ModelServerError."""
        with self.open_model(name) as model:
            return model.names()
