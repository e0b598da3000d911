"""What settings are made of, and the two sections that every service reads.

Each service owns one pydantic model for its section; a default lives there and nowhere else. `ais.runtime.reading`
makes the models from a file, the environment and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ais.runtime.network.redis_url import RedisServer, RedisUrl, without_passwords

MOST = 2**31 - 1
"""No number of things is larger: it fits every place it goes to."""
MOST_SECONDS = 7 * 86_400.0
"""No deadline and no wait is longer than a week: the system's timers take no number of seconds."""

Count = Annotated[int, Field(ge=1, le=MOST)]
"""A number of things, at least one."""
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
"""A number of things, or 0."""
Threads = Annotated[int, Field(ge=1, le=4096)]
"""Threads, processes or devices of one machine."""
Seconds = Annotated[float, Field(ge=0.001, le=MOST_SECONDS)]
"""A time, at least a millisecond."""
SecondsOrNone = Annotated[float, Field(ge=0.0, le=MOST_SECONDS)]
"""A time, or 0."""
Port = Annotated[int, Field(ge=0, le=65_535)]
"""A port to listen on; 0 takes a free one."""


class SettingsError(ValueError):
    """The settings cannot be used. The message names the key, what is wrong, and what to write instead.

    It may quote what was written, but no password.
    """

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))


class Section(BaseModel):
    """Base of every settings model: unknown keys and numbers that are not finite are errors, and the docstring under a
    field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    moved: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier releases below this section, and where each is now."""


class RunSettings(Section):
    """What all services of one run must agree on."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)
    """Name of the run: prefix of its Redis keys and of its directory."""
    directory: Path = Path("runs")
    """Where runs are kept; this run writes to `directory/name`."""
    model: Path = Path("examples/sort16/model")
    """Hugging Face model directory the policy starts from: config, safetensors weights, tokenizer."""
    steps: Count = 150
    """Optimizer batches to train for."""
    groups_per_batch: Count = 32
    """Prompts in one optimizer batch."""
    samples_per_group: int = Field(default=8, ge=2, le=MOST)
    """Responses sampled for each prompt."""
    max_staleness: CountOrNone = 1
    """Versions a trajectory may be behind the policy it trains. 0 is on-policy: rollout and training alternate."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the prompt order, of sampling and of the trainer."""
    routing_replay: bool = False
    """For a mixture of experts (Qwen3-MoE, GPT-OSS) that vLLM serves: replicas record which experts read each token,
    and the trainer sends it to the same ones when it scores and trains, weighted by its own router. Ratios are then
    between policies that route alike (docs/models.md). On a CPU vLLM's prefix cache is off for it. Each token that is
    read, of prompts too, costs layers x experts per token bytes on the way and in the queue; twice that with more than
    256 experts."""
    use_proxy: bool = False
    """Whether services reach each other through the proxy that the environment names (http_proxy, grpc_proxy, ...),
    except for the hosts in no_proxy. False: always directly."""

    @property
    def path(self) -> Path:
        """Directory of this run."""
        return self.directory / self.name


class RedisSettings(Section):
    """The server that carries queue, registry and events."""

    url: RedisUrl = RedisUrl("")
    """redis://[USER[:PASSWORD]@]HOST[:PORT][/DB], rediss:// for TLS (the authority in ?ssl_ca_certs=FILE), or
    unix://[USER[:PASSWORD]@]/SOCKET[?db=DB]. A password may hold any character; a space is written %20, a percent sign
    %25. It is shown nowhere. Empty: `ais run` starts a Valkey server of its own."""
    password_file: Path | None = None
    """File with the password, closed to other users, for a URL without one: 16 to 512 visible ASCII characters. The
    first line is used, and a changed file is read again: docs/security.md."""
    certificates: Path | None = None
    """Directory with ca.crt, tls.crt and tls.key, as security.certificates is one, for a server at rediss:// that asks
    for a client's certificate. The server's own says `redis`, whatever its address. For a server of another authority
    the URL has ?ssl_ca_certs=FILE, and ssl_certfile and ssl_keyfile where it asks for them."""
    connect_timeout_seconds: Seconds = 30.0
    """How long a service waits at start for the server to answer before it gives up."""
    operation_timeout_seconds: Seconds = 10.0
    """Deadline of one call, beyond the time the call itself asks the server to wait."""

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: RedisUrl) -> RedisUrl:
        if url:
            RedisServer.parse(url.get_secret_value())
        return url

    @model_validator(mode="after")
    def _speaks_tls_where_it_has_certificates(self) -> Self:
        url = self.url.get_secret_value()
        if self.certificates is not None and (not url.startswith("rediss:") or "ssl_" in url):
            raise ValueError("certificates: expected url to be rediss://... without ssl_ options")
        return self
