import sys

from llama_cpu.cli.main import main

sys.exit(main())
