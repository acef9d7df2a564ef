"""Worker for the logits of llama.cpp, through llama-cpp-python, with a float32 KV cache.

It reads one JSON object from standard input: ``model`` (a path), ``threads`` and ``windows`` (lists
of token ids). It writes a line ``{"version": ..., "vocab": ...}`` and then, for each window, the
logits [tokens, vocab] as float32. It does not follow the protocol of the other workers.
"""

import json
import os
import sys

GGML_TYPE_F32 = 0


def main() -> None:
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output that the library prints must not be read as logits
    task = json.load(sys.stdin)
    import llama_cpp

    longest = max(len(ids) for ids in task["windows"])
    model = llama_cpp.Llama(
        task["model"],
        n_ctx=longest,
        n_batch=longest,
        n_ubatch=longest,
        n_threads=task["threads"],
        n_threads_batch=task["threads"],
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
        logits_all=True,
        verbose=False,
    )
    header = {"version": f"llama-cpp-python {llama_cpp.__version__}", "vocab": model.n_vocab()}
    output.write(json.dumps(header).encode() + b"\n")
    for ids in task["windows"]:
        model.reset()
        model.eval(ids)
        output.write(model.scores[: len(ids)].tobytes())
        output.flush()


if __name__ == "__main__":
    main()
