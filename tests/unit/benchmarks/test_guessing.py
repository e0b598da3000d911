"""What the comparison of an environment with a program is made of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.guessing.curves import DOCUMENT, Curve, Way, filled, recorded, standard_error, table

FOLDER = Path(__file__).parents[3] / "benchmarks" / "guessing"


def curve(way: Way, seed: int, *rewards: float) -> Curve:
    return Curve(
        way=way, seed=seed, machine="one", episodes=64, rewards=list(rewards), tokens=[], seconds=1.0, held_out={},
        first_step=[],
    )  # fmt: skip


def test_what_is_forked_is_the_script_with_its_own_variables_input_and_exit_code(tmp_path: Path) -> None:
    script, path = tmp_path / "script.py", tmp_path / "socket"
    script.write_text(
        "import os, sys\n"
        "assert __name__ == '__main__'\n"
        "open(os.environ['OPENAI_BASE_URL'], 'w').write(sys.stdin.readline())\n"
        "sys.exit(3)\n"
    )
    forking = [sys.executable, str(FOLDER / "forking.py"), str(path), str(script)]
    with subprocess.Popen(forking, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            for number in range(2):
                said = tmp_path / f"said-{number}"
                environment = os.environ | {"OPENAI_BASE_URL": str(said)}
                command = [sys.executable, "-I", "-S", str(FOLDER / "forked.py"), str(path)]
                ended = subprocess.run(command, input=f"{number}\n", text=True, env=environment, check=False)
                assert (ended.returncode, said.read_text()) == (3, f"{number}\n")
        finally:
            server.kill()


def test_the_difference_of_a_seeds_two_curves_stands_beside_its_standard_error() -> None:
    ours, theirs = curve("environment", 0, *[0.25] * 10, *[0.5] * 10), curve("program", 0, *[0.25] * 20)
    lone = curve("program", 1, *[0.25] * 20)
    _, _, first, second = table([ours, lone, theirs])
    assert first == "| 1 to 10 | 0.250 | 0.250 | +0.000 ± 0.024 |"
    assert second.startswith("| 11 to 20 | 0.500 | 0.250 | -0.250 ± ")
    assert round(standard_error(ours, theirs, 0), 3) == 0.024


def test_the_table_of_both_ways_is_made_from_their_records() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert filled(text, recorded()) == text
    by_environment, by_program = recorded()
    assert by_environment.first_step == by_program.first_step
    assert f"the {len(by_program.first_step)} episodes of the first step are the same" in text
