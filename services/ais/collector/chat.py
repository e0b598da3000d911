"""A conversation in the terminal with the policy that a replica serves.

    python -m ais.collector.chat -c FILE --replica HOST:PORT

Each line that is typed is a message of the user. With a chat template the conversation goes on, and /new begins
another; without one each line is a prompt by itself. An answer appears as it is sampled, where the replica can stream.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from pathlib import Path
from typing import Any

from ais.collector.prompts.growing import GrowingText
from ais.collector.prompts.prompts import Question
from ais.collector.prompts.tokenizer import PolicyTokenizer, open_tokenizer, run_without_torch
from ais.collector.replicas.generation import GenerationClient, GenerationError
from ais.collector.settings import CollectorProcessSettings
from ais.contracts.sampling import FinishReason, SamplingParameters
from ais.contracts.trajectory import Trajectory, TrajectoryBounds
from ais.contracts.v1 import rollout_pb2
from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE
from ais.runtime.process import UnavailableError, die_with_parent
from ais.runtime.reading import read_settings
from ais.runtime.security.keyring import open_keyring
from ais.runtime.security.roles import Role
from ais.runtime.settings import SettingsError
from ais.runtime.text import escaped

DESCRIBE_SECONDS = 60.0
ANSWER_SECONDS = 600.0
"""The longest that one answer may take."""
NEW = "/new"
"""The line that begins another conversation."""


class Conversation:
    """What has been said so far."""

    def __init__(self, tokenizer: PolicyTokenizer) -> None:
        self._tokenizer = tokenizer
        self._messages: list[dict[str, Any]] = []

    def asked(self, text: str) -> list[int]:
        """The prompt's tokens after the user has said `text`. Raises UnavailableError, see encode_prompt."""
        question: Question = text
        if self._tokenizer.chats:
            question = (*self._messages, {"role": "user", "content": text})
        tokens = self._tokenizer.encode_prompt(question)
        self._messages.append({"role": "user", "content": text})
        return tokens

    def text_so_far(self) -> GrowingText:
        """The text of the answer that is about to come."""
        return GrowingText(self._tokenizer.decode_response, self._tokenizer.byte_tokens)

    def answered(self, text: str) -> None:
        """The whole answer was that."""
        self._messages.append({"role": "assistant", "content": text})

    def unanswered(self) -> None:
        """The last question gets no answer, and is forgotten."""
        self._messages.pop()

    def begin_again(self) -> None:
        self._messages.clear()


async def _opened(
    address: str, settings: CollectorProcessSettings
) -> tuple[GenerationClient, rollout_pb2.DescribeResponse]:
    credential = open_keyring(settings.security, settings.run).credential(Role.COLLECTOR)
    client = GenerationClient(address, settings.run.use_proxy, credential=credential)
    return client, await client.describe(DESCRIBE_SECONDS)


def converse(settings: CollectorProcessSettings, address: str) -> None:
    """Answers each line of the standard input until it ends. Raises UnavailableError and GenerationError."""
    conversation = Conversation(open_tokenizer(settings.run.model, settings.collector.prompt))
    shown = "> " if sys.stdin.isatty() else ""
    with asyncio.Runner() as runner:
        client, description = runner.run(_opened(address, settings))
        print(f"{settings.run.model} on {description.engine}. {NEW} begins again, Ctrl-D ends.", file=sys.stderr)
        bounds = TrajectoryBounds(vocab_size=description.vocab_size)
        while (line := _read(shown)) is not None:
            if line == NEW:
                conversation.begin_again()
            elif line:
                runner.run(_answer(client, conversation, line, settings.collector.sampling, bounds))
        runner.run(client.close())


def _read(prompt: str) -> str | None:
    """The next line; None at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        return None


async def _answer(
    client: GenerationClient,
    conversation: Conversation,
    line: str,
    sampling: SamplingParameters,
    bounds: TrajectoryBounds,
) -> None:
    """Shows the answer as it grows, and a line's end; or why there is none."""
    prompt, text = conversation.asked(line), conversation.text_so_far()
    seeded = sampling.model_copy(update={"seed": secrets.randbits(62)})
    name = f"chat-{secrets.token_hex(8)}"
    try:
        whole = await client.stream(
            name, prompt, seeded, bounds, ANSWER_SECONDS, lambda sampled: _show(text.grown(sampled.token_ids))
        )
        _show(text.ended(_tokens_of(whole)))
    except GenerationError as error:
        conversation.unanswered()
        _show(f"{text.shown and ' '}(no answer: {error})")
    else:
        conversation.answered(text.shown)
    print(flush=True)


def _tokens_of(trajectory: Trajectory) -> list[int]:
    """Without the stop token, which not every tokenizer calls special."""
    tokens: list[int] = trajectory.token_ids.tolist()
    return tokens[:-1] if trajectory.finish_reason is FinishReason.STOP else tokens


def _show(text: str) -> None:
    print(escaped(text, keep="\n\t"), end="", flush=True)


def main() -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without
    run_without_torch()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--replica", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    try:
        converse(read_settings(CollectorProcessSettings, arguments.config, whole=False), arguments.replica)
    except KeyboardInterrupt:
        print(file=sys.stderr)
    except SettingsError as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_SETTINGS)
    except (UnavailableError, GenerationError) as error:
        print(f"ais: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    main()
