"""Quantize a GGUF file as llama.cpp does, with its defaults. Not a worker: it ends when it is done.

python -m benchmarks.workers.quantize SOURCE TARGET Q4_K_M THREADS
"""

import ctypes
import sys


def main() -> None:
    source, target, kind, threads = sys.argv[1:]
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = int(threads)
    code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if code != 0:
        sys.exit(f"llama_model_quantize failed with {code}")


if __name__ == "__main__":
    main()
