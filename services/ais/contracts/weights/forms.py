"""Forms of a policy version's bytes: its BF16 files, or what a replica's number format makes of them.

A replica that computes in FP8 quantises every linear weight that it gets. Where all that do so get the same codes, the
trainer can quantise once and send these: about half the bytes. A quantised form has the same tensors in the same files,
but for each weight that the format quantises, its codes under the weight's name and its scales, float32 (rows, 1),
under `scale_name`, as `ais_core.numerics.encode_weight` computes them from the BF16 values with a scale for each output
channel. So the replica computes the same with it, to the bit.

A form is named after the weights' format, with `+head` where the output head is quantised too. What activations and
the KV cache are rounded to does not matter to it. The files say which form they have in their safetensors metadata.
"""

from __future__ import annotations

from typing import NamedTuple

from ais.contracts.sampling import Precision

BF16 = "bf16"
"""The form that names the version: its digest is that of these files. Every replica takes it."""
FORM_KEY = "ais_form"
"""Key of the form's name in a file's safetensors metadata; BF16 files have none."""
CODES = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}
"""safetensors' name of the dtype of codes, by the format that can be sent as such."""
WIDTHS = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of a value, by safetensors' names."""
_LINEAR = "_proj.weight"
"""Ends the names of the linear layers' weights in the families that the torch engine computes."""
_HEAD = "lm_head.weight"
_HEAD_TOO = "+head"
_SCALE = "_scale"


class Kind(NamedTuple):
    """What a tensor in a file is."""

    dtype: str
    """By safetensors' names."""
    shape: tuple[int, ...]


def form_of_precision(precision: Precision) -> str:
    """The smallest form that a replica of `precision` computes the same with as with BF16."""
    if precision.weights not in CODES or precision.granularity != "channel" or precision.scales != "maximum":
        return BF16
    return precision.weights + (_HEAD_TOO if precision.head else "")


def is_quantised(name: str, form: str) -> bool:
    """Whether the form has codes and scales in the place of the tensor `name`.

    A head that is tied to the embedding has no tensor: the embedding is BF16 in every form.
    """
    return form != BF16 and (name.endswith(_LINEAR) or (name == _HEAD and form.endswith(_HEAD_TOO)))


def number_format_of(form: str) -> str:
    """Number format of the codes of a quantised form."""
    return form.removesuffix(_HEAD_TOO)


def scale_name(name: str) -> str:
    """Name of the tensor that holds the scales of the weight `name`."""
    return name + _SCALE


def weight_name(name: str) -> str:
    """Name of the weight that `name` belongs to: itself, or the one whose scales it names."""
    return name.removesuffix(_SCALE)


def stored(name: str, shape: tuple[int, ...], form: str) -> dict[str, Kind]:
    """What the files of a form have in the place of one BF16 tensor."""
    if not is_quantised(name, form):
        return {name: Kind("BF16", shape)}
    return {name: Kind(CODES[number_format_of(form)], shape), scale_name(name): Kind("F32", (shape[0], 1))}
