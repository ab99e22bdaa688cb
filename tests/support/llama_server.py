"""A real llama.cpp server on a tiny model of random weights: `serving_llama`, or `python -m` it with a folder.

The model is a Llama of two layers, made here, whose tokens are the 256 bytes and a merge; it writes nonsense, but it
batches, queues and streams as llama.cpp does. CONFIG is its config.json, for a spec.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.support.openai_server import REPOSITORY, Served

MODEL = "tiny"
SLOTS = 4
_WIDTH, _MLP, _LAYERS, _HEADS, _KV_HEADS, _HEAD = 64, 128, 2, 2, 1, 32
_TOKENS = 260
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": _TOKENS,
    "hidden_size": _WIDTH,
    "intermediate_size": _MLP,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _HEAD,
    "max_position_embeddings": 4096,
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
}


def write_config(folder: Path) -> Path:
    """The folder of the model as a spec names it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_model(file: Path) -> None:
    """The model as GGUF. A tokenizer of byte-level BPE needs a merge, or llama.cpp does not find its merges."""
    import gguf

    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name(MODEL)
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_MLP)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_vocab_size(_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", *_byte_characters(), "ab"])
    writer.add_token_types([3, 3, 3] + [1] * (_TOKENS - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.02).astype(np.float32)

    ones = np.ones(_WIDTH, dtype=np.float32)
    writer.add_tensor("token_embd.weight", weights(_TOKENS, _WIDTH))
    writer.add_tensor("output.weight", weights(_TOKENS, _WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(_LAYERS):
        tensors = {
            "attn_q": weights(_HEADS * _HEAD, _WIDTH),
            "attn_k": weights(_KV_HEADS * _HEAD, _WIDTH),
            "attn_v": weights(_KV_HEADS * _HEAD, _WIDTH),
            "attn_output": weights(_WIDTH, _HEADS * _HEAD),
            "ffn_gate": weights(_MLP, _WIDTH),
            "ffn_up": weights(_MLP, _WIDTH),
            "ffn_down": weights(_WIDTH, _MLP),
            "attn_norm": ones,
            "ffn_norm": ones,
        }
        for name, tensor in tensors.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _byte_characters() -> list[str]:
    """The characters by which byte-level BPE writes the 256 bytes: printable ones as they are, others from 256 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


@contextmanager
def serving_llama(folder: Path) -> Iterator[Served]:
    """The server as a process of its own, with its model in this folder; it is ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.llama_server", str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        while line and not line.startswith("http"):
            line = process.stdout.readline()
        assert line, "the server did not start"
        yield Served(f"{line.strip()}/v1", process)
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    import xllamacpp

    folder = Path(sys.argv[1])
    file = folder / f"model-{os.getpid()}.gguf"
    write_model(file)
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * 1024  # shared by the slots
    params.cpuparams.n_threads = 1  # several spin, which is many times slower where cores are shared
    params.warmup = False
    server = xllamacpp.Server(params)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(server.listening_address, flush=True)
    stop.wait()
    os._exit(0)  # it has no way to stop


if __name__ == "__main__":
    main()
