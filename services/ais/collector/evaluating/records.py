"""Every response of an evaluation, as a row: JSON lines, or Parquet by the file's name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ais.collector.evaluating.questions import Sample
from ais.collector.prompts.tokenizer import PolicyTokenizer
from ais.contracts.sampling import FinishReason
from ais.runtime.process import UnavailableError

PARQUET = ".parquet"


def write_records(file: Path, tokenizer: PolicyTokenizer, step: int, samples: Sequence[Sample]) -> None:
    """Writes a row for each response. Raises UnavailableError where Parquet needs a library that is not there."""
    rows = list(_rows(tokenizer, step, samples))
    if file.suffix != PARQUET:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnavailableError("Parquet needs pyarrow: pip install 'ais-rl[data]'") from error
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def _rows(tokenizer: PolicyTokenizer, step: int, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    for sample in samples:
        for index, (trajectory, reward) in enumerate(zip(sample.trajectories, sample.rewards, strict=True)):
            tokens, text = trajectory.token_ids.tolist(), trajectory.text_token_ids.tolist()
            ended = trajectory.finish_reason is FinishReason.STOP
            yield {
                "step": step,
                "source": sample.question.source.name,
                "prompt_id": sample.prompt.prompt_id,
                "prompt": sample.prompt.text,
                "answer": sample.prompt.answer,
                "sample": trajectory.sample_index,
                "response": tokenizer.decode_response(text[:-1] if ended else text),
                "reward": reward,
                "components": [{"name": one.name, "score": one.scores[index]} for one in sample.components],
                "first_version": min(span.version for span in trajectory.spans),
                "last_version": max(span.version for span in trajectory.spans),
                "finish_reason": trajectory.finish_reason.value,
                "turns": max(1, len(trajectory.turns)),
                "token_ids": tokens,
                "logprobs": trajectory.behaviour_logprobs.tolist(),
            }
