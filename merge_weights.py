"""Join a checkpoint's shards: ``python merge_weights.py --model_size 13B``. See --help."""

import sys

from llama_cpu.cli.entry import run

if __name__ == "__main__":
    sys.exit(run("merge_main"))
