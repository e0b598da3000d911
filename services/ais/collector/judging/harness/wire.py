"""OpenAI's completions, of chats and raw, as far as an episode has them: what is asked, and how it is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ais.collector.judging.harness.answers import Completed, Piece
from ais.collector.judging.judgement import Failure
from ais.collector.prompts.prompts import Messages
from ais.collector.settings.rewards import LARGEST_SCORE

MOST_MESSAGES = 4_096
MOST_TOOLS = 128
LONGEST_WAIT = 60.0
"""Seconds that an agent may wait for an episode in one call."""
POLICY = "assistant"
"""The policy's role."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "top_logprobs": (0,),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""What would change the answer and is not there, and the values that ask for nothing."""


Body = TypeVar("Body", bound=BaseModel)
Call = TypeVar("Call", bound="_Completion")


class CallRefusedError(Exception):
    """A call cannot be answered; in OpenAI's words."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """The error as the API shows it."""
        failure = Refused(message=str(self), type=self._type(), param=self.param, code=self.code)
        return Failed(error=failure).model_dump()

    def _type(self) -> str:
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _CalledFunction(BaseModel):
    name: str
    arguments: str

    def told(self) -> dict[str, Any]:
        """As chat templates have it: with the arguments as an object, where they are one."""
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = self.arguments
        return {"name": self.name, "arguments": arguments}


class _Call(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: _CalledFunction


class Message(BaseModel):
    """Who said what. What else a message has is left out."""

    role: str = Field(min_length=1, max_length=64)
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not (self.role == POLICY and self.tool_calls):
            raise ValueError("a message has content; an assistant's may have tool_calls instead")
        return self

    @property
    def size(self) -> int:
        """Characters of it, about."""
        calls = sum(len(one.function.arguments) for one in self.tool_calls or ())
        return len(self.content or "" if isinstance(self.content, str) else self._text()) + calls

    def told(self) -> dict[str, Any]:
        """As chat templates have it."""
        given: dict[str, Any] = {"role": self.role, "content": self._text()}
        if self.role == POLICY and self.tool_calls:
            given["tool_calls"] = [
                {"id": one.id, "type": one.type, "function": one.function.told()} for one in self.tool_calls
            ]
        if self.role == "tool":
            given |= {key: value for key in ("tool_call_id", "name") if (value := getattr(self, key)) is not None}
        return given

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Function(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=64)


class _Tool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: _Function


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Completion(BaseModel):
    """What is asked. The policy is sampled as `collector.sampling` says, whatever temperature or seed is named."""

    model_config = ConfigDict(extra="allow")

    max_tokens: int | None = Field(default=None, ge=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def tells_usage(self) -> bool:
        """Whether the tokens are counted at the end of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)


class Completion(_Completion):
    """A chat that is to go on."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: Annotated[list[_Tool], Field(max_length=MOST_TOOLS)] | None = None
    logprobs: bool | None = None

    @cached_property
    def told(self) -> Messages:
        """The messages as chat templates have them."""
        return tuple(one.told() for one in self.messages)

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-prob of each token is to be told."""
        return bool(self.logprobs)

    @property
    def size(self) -> int:
        """Characters of the conversation and its tools, about."""
        tools = sum(len(str(one.function.model_extra)) for one in self.tools or ())
        return tools + sum(one.size for one in self.messages)

    def most_tokens(self, most: int) -> int:
        """Tokens of the answer, where `most` are allowed."""
        return min(one for one in (self.max_tokens, self.max_completion_tokens, most) if one is not None)

    @cached_property
    def schemas(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates have them; None: none."""
        return [one.model_dump() for one in self.tools] if self.tools else None


Token = Annotated[int, Field(ge=0, lt=2**31)]


class RawCompletion(_Completion):
    """A text, or tokens, that the policy is to go on with: as they are, without a chat template."""

    prompt: str | Annotated[list[Token], Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(default=None, ge=0, le=0)
    """0: that of each sampled token."""

    @property
    def said(self) -> str | list[int]:
        """The prompt."""
        if isinstance(self.prompt, str):
            return self.prompt
        first, *rest = self.prompt
        return first if isinstance(first, str) else [first, *(one for one in rest if isinstance(one, int))]

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-prob of each token is to be told."""
        return self.logprobs is not None

    @property
    def size(self) -> int:
        """Characters of the prompt, or tokens."""
        return len(self.said)

    def most_tokens(self, most: int) -> int:
        """Tokens of the answer, where `most` are allowed."""
        return most if self.max_tokens is None else min(self.max_tokens, most)


Asked = Completion | RawCompletion
Told = Callable[[str, Piece], object]
"""Is told the name of an answer and what more there is of it."""


class End(BaseModel):
    """Ends an episode: with a reward; as a failure; so that it is played again; or with nothing of these, where the
    verifiers give the reward."""

    model_config = ConfigDict(extra="forbid")

    reward: float | None = Field(default=None, ge=-LARGEST_SCORE, le=LARGEST_SCORE, allow_inf_nan=False)
    failed: str | None = Field(default=None, min_length=1, max_length=500)
    """Why the program came to nothing."""
    again: bool = False
    """Whether the program cannot go on, through no fault of the policy's."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.reward is not None) + (self.failed is not None) + self.again > 1:
            raise ValueError("an episode ends with a reward, as failed, or to be played again")
        return self


class Refused(BaseModel):
    """What is wrong with a call, as the API shows it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failed(BaseModel):
    """The answer to a call that was refused."""

    error: Refused


class Wanted(BaseModel):
    """Asks for an episode to play."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(default=30.0, ge=0.0, le=LONGEST_WAIT, allow_inf_nan=False)
    """How long to wait for one."""


class Offered(BaseModel):
    """An episode to play."""

    base_url: str
    """For OpenAI's clients, at the address that was asked."""
    key: str
    silent_seconds: float
    """Time without a call after which the agent counts as lost."""
    prompt: dict[str, Any]
    """As programs read it on their standard input."""


class Session(Protocol):
    """Who answers the calls of one episode."""

    refused: str
    """Why the last call was refused that was; the endpoint writes it."""
    heard: float
    """When somebody last came with the key, or was answered, on time.monotonic's clock; the endpoint writes it too."""

    @property
    def reward(self) -> float | None:
        """What the episode was ended with."""
        ...

    @property
    def failure(self) -> Failure | None:
        """What the program has ended it as, where that was no success."""
        ...

    @property
    def is_asking(self) -> bool:
        """Whether a call is being answered."""
        ...

    @property
    def ended(self) -> asyncio.Event:
        """Set when the program has ended the episode."""
        ...

    async def complete(self, asked: Asked, told: Told = ...) -> Completed:
        """`told` gets what can be told of the answer while it is sampled, where that is asked for, at first when
        nothing is left to refuse.

        Raises CallRefusedError. Cancelled, it leaves nothing behind: nobody has seen the answer.
        """
        ...

    def end(self, told: End) -> None:
        """Raises CallRefusedError."""
        ...


def completion_in(body: bytes) -> Completion:
    """Raises CallRefusedError for what is no request that can be answered."""
    return _neutral(_read(Completion, body))


def raw_completion_in(body: bytes) -> RawCompletion:
    """Raises CallRefusedError for what is no request that can be answered."""
    return _neutral(_read(RawCompletion, body))


def _neutral(asked: Call) -> Call:
    """Raises CallRefusedError for what is asked that is not there."""
    for name, neutral in _NEUTRAL.items():
        value = (asked.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            raise CallRefusedError(400, f"{name} is not supported here: leave it out", "unsupported_parameter", name)
    return asked


def end_in(body: bytes) -> End:
    """Raises CallRefusedError."""
    return _read(End, body)


def wanted_in(body: bytes) -> Wanted:
    """Raises CallRefusedError."""
    return _read(Wanted, body or b"{}")


def _read(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        param = str(first["loc"][0]) if first["loc"] else None
        raise CallRefusedError(400, f"{place or 'body'}: {first['msg']}", "invalid_value", param) from None
