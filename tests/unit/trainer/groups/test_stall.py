"""What a stalled trainer says it waits for."""

from __future__ import annotations

import pytest

from ais.trainer.groups.stall import Wait, explanation

WAIT = Wait(seconds=61.4, missing=[6, 8], lost=[], needed_version=3, serving=[3, 4], starting=0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "2 replicas take work: the collector does not run"),
        ({"missing": [7]}, "group 7 has not come"),
        ({"missing": list(range(32))}, "32 groups (0, 1, 2, 3, 4, ...) have not come"),
        ({"lost": [6]}, "The queue has lost group 6: somebody deleted"),
        ({"lost": [6, 8], "serving": []}, "The queue has lost 2 groups (6, 8)"),
        ({"serving": []}, "No replica is registered"),
        ({"serving": [], "starting": 2}, "2 replicas are there and none takes work yet"),
        ({"serving": [1, 2, 2]}, "No replica serves version 3 or a newer one, which the batch needs"),
        ({"serving": [1, 2, 2]}, "they serve 1, 2."),
    ],
)
def test_the_reason_is_the_first_thing_that_is_missing(changed: dict[str, object], said: str) -> None:
    wait = Wait(**{**WAIT.__dict__, **changed})  # type: ignore[arg-type]
    assert explanation(wait).startswith("no batch for 61 s: ")
    assert said in explanation(wait)
