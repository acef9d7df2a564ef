"""Damage files at random for as long as you like, and list what the program does wrong.

    python -m tests.fuzz --seed 7 --count 20000         # about 10 files a second
    python -m tests.fuzz --only history.db --count 500

Each line is one file: its name and seed, with which it can be made again (--only NAME --seed SEED
--count 1), and what happened instead of a load or one sentence. Panics of libraries appear on the
standard error output.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

from llama_cpu.system.process import prepare_for_torch
from tests.support.fuzzing import attack, targets


def main() -> int:
    """Return exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first file (default: 0)")
    parser.add_argument("--count", type=int, default=1000, help="files in all (default: 1000)")
    parser.add_argument("--only", default="", metavar="NAME", help="only files of this name")
    args = parser.parse_args()
    prepare_for_torch()
    warnings.simplefilter("ignore")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [each for each in targets(Path(folder)) if args.only in each.name]
        if not chosen:
            parser.error(f"no target is called {args.only}")
        for number in range(args.count):
            target = chosen[number % len(chosen)]
            seed = args.seed + number // len(chosen)
            if outcome := attack(target, seed):
                wrong += 1
                print(f"{target.name} {seed}: {outcome}", flush=True)
    print(f"{args.count} files, {wrong} with a wrong outcome.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
