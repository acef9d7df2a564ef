"""Join a checkpoint's shards: ``python merge_weights.py --model_size 13B``. See --help."""

import sys

from llama_cpu.cli.main import merge_main

if __name__ == "__main__":
    sys.exit(merge_main())
