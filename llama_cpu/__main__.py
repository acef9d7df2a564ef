import sys

from llama_cpu.cli import main

sys.exit(main())
