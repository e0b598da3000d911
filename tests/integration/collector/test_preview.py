"""`ais data` shows the prompts of each source as the policy will read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ais.runtime.exits import EXIT_SETTINGS, EXIT_UNAVAILABLE

MODEL = Path(__file__).parents[3] / "examples" / "sort16" / "model"


def data(directory: Path, task: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    config = directory / "config.toml"
    config.write_text(f"[run]\nmodel = {json.dumps(str(MODEL))}\n[rollout]\nmax_model_len = 64\n{task}")
    command = [sys.executable, "-m", "ais.cli", "data", "-c", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_source_is_shown_with_its_counts_and_its_first_prompts_rendered(tmp_path: Path) -> None:
    rows = [{"chat": [{"role": "user", "content": f"{i}-1"}], "solved": {"by": str(i - 1)}} for i in range(10, 40)]
    rows.append({"chat": [{"role": "user", "content": "1" * 99}], "solved": {"by": "2"}})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}=")
    shown = data(
        tmp_path,
        """
        [collector.task]
        name = "mixture"
        [[collector.task.sources]]
        name = "jsonl"
        file = "rows.jsonl"
        too_long = "skip"
        columns = { prompt = "chat", answer = "solved.by", metadata = { solved = "solved" } }
        weight = 2
        [[collector.task.sources]]
        name = "sort"
        digits = 3
        weight = 0
        [collector.prompt]
        chat_template = "chat.jinja"
        """,
        "--prompts",
        "1",
    )
    assert shown.returncode == 0, shown.stderr
    first, second = shown.stdout.split("sort3: ")
    assert first.startswith("rows: jsonl, ")
    assert "weight 2; " in first
    assert "1 too long and left out" in first
    assert "rows-" in first
    assert ", 6 tokens\n  | ^" in first
    assert "-1=\n  answer: '" in first
    assert 'metadata: {"solved": {"by": "' in first
    assert "weight 0; none trained on; endless prompts held out" in second
    assert second.count("answer: ") == 1


@pytest.mark.parametrize(
    ("task", "code", "said"),
    [
        ('[collector.task]\nname = "jsonl"\nfile = "none.jsonl"', EXIT_UNAVAILABLE, "cannot read task file"),
        ('[collector.task]\nname = "json"', EXIT_SETTINGS, "collector.task.name"),
        ('[collector.prompt]\nchat_template = "none.jinja"', EXIT_UNAVAILABLE, "none.jinja cannot be read"),
        ('[collector.prompt]\nchat_template = "x"\nuse_chat_template = false', EXIT_SETTINGS, "use_chat_template"),
    ],
)
def test_what_cannot_be_shown_ends_with_its_reason(tmp_path: Path, task: str, code: int, said: str) -> None:
    done = data(tmp_path, task)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
