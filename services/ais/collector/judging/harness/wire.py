"""OpenAI's chat completions, as far as an episode has them: what is asked, what is answered, how it is refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ais.collector.settings.rewards import LARGEST_SCORE
from ais.contracts.sampling import FinishReason

MODEL = "policy"
"""What the policy is called. Whatever a program calls it, it is asked."""
MOST_MESSAGES = 4_096
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stream": (False,),
    "stop": ([], ""),
    "logprobs": (False,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
}
"""What would change the answer and is not there, and the values that ask for nothing."""


Asked = TypeVar("Asked", bound=BaseModel)


class CallRefusedError(Exception):
    """A call cannot be answered; in OpenAI's words."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def body(self) -> dict[str, Any]:
        """The error as the API shows it."""
        failure = Failure(message=str(self), type=self._type(), param=self.param, code=self.code)
        return Failed(error=failure).model_dump()

    def _type(self) -> str:
        if self.status == 401:
            return "authentication_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """Who said what. What else a message has is left out."""

    role: str = Field(min_length=1, max_length=64)
    content: str | list[_Part]

    @property
    def text(self) -> str:
        """Its words."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Completion(BaseModel):
    """What is asked. The policy is sampled as `collector.sampling` says, whatever temperature or seed is named."""

    model_config = ConfigDict(extra="allow")

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    def most_tokens(self, most: int) -> int:
        """Tokens of the answer, where `most` are allowed."""
        return min(one for one in (self.max_tokens, self.max_completion_tokens, most) if one is not None)


class End(BaseModel):
    """Ends an episode."""

    reward: float = Field(ge=-LARGEST_SCORE, le=LARGEST_SCORE, allow_inf_nan=False)


@dataclass(frozen=True)
class Completed:
    """An answer of the policy."""

    name: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    tokens: int

    def body(self) -> dict[str, Any]:
        """The answer as the API shows it."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason.value, "logprobs": None}
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }
        return {
            "id": self.name,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL,
            "choices": [choice],
            "usage": usage,
        }


class Failure(BaseModel):
    """What is wrong with a call, as the API shows it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failed(BaseModel):
    """The answer to a call that was refused."""

    error: Failure


class Session(Protocol):
    """Who answers the calls of one episode."""

    @property
    def reward(self) -> float | None:
        """What the episode was ended with."""
        ...

    async def complete(self, asked: Completion) -> Completed:
        """Raises CallRefusedError."""
        ...

    def end(self, reward: float) -> None:
        """Raises CallRefusedError."""
        ...


def completion_in(body: bytes) -> Completion:
    """Raises CallRefusedError for what is no request that can be answered."""
    asked = _read(Completion, body)
    for name, neutral in _NEUTRAL.items():
        value = (asked.model_extra or {}).get(name)
        if value is not None and value not in neutral:
            raise CallRefusedError(400, f"{name} is not supported here: leave it out", "unsupported_parameter", name)
    return asked


def end_in(body: bytes) -> End:
    """Raises CallRefusedError."""
    return _read(End, body)


def _read(kind: type[Asked], body: bytes) -> Asked:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise CallRefusedError(400, f"{place or 'body'}: {first['msg']}", "invalid_value", place or None) from None
