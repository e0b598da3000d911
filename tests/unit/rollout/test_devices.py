"""Where the torch engine computes."""

import pytest
import torch

from ais.rollout.engine import ModelUnsupportedError
from ais.rollout.engines.torch_engine.devices import chosen_device

GPU = torch.cuda.is_available()


def test_a_gpu_is_taken_where_there_is_one() -> None:
    assert chosen_device("auto").type == ("cuda" if GPU else "cpu")
    assert chosen_device("cpu").type == "cpu"


@pytest.mark.skipif(GPU, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_with_what_to_set() -> None:
    with pytest.raises(ModelUnsupportedError, match="Set it to auto or cpu"):
        chosen_device("cuda")
