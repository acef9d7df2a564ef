"""Compare our engine with other engines and with the limits of this machine, in one table.

    python -m benchmarks --peers ../peers/bin/python --folder /tmp/models

All engines use the same weights and the same number of threads, and run in turn: each side is a
process that holds its model and waits while another one works. Figures are medians over the rounds;
a ratio above 1 is in our favour. "Of the limit" is the shortest possible time divided by the time
taken. The shortest possible time is that of reading the weights and the KV cache once, or of the
products of the prompt, at the speeds measured in the same rounds: the fastest of several ways to
read memory and to multiply matrices (llama_cpu/bench/machine_speed.py).

The precisions are the weight formats of the program. benchmarks/peers.py says what each peer runs
in place of one: our int4 beside llama.cpp's Q4_0 and Q4_K_M, for example. In "file", both sides run
the same quantized GGUF file. The kinds of rows (--only):

- decode and prefill: beside the peers;
- lookup: decode with prompt lookup, beside decode without it;
- rows: a pass of 8 rows beside one of 1 row;
- long: decode after 2,000 and after 8,000 tokens, beside decode after 100;
- turn: 20 new tokens after 1,500 kept ones, beside 20 tokens alone;
- memory: the peak of our process.

The peers are not dependencies of the project; create an environment for them:

    pip install llama-cpp-python ctranslate2 openvino-genai nncf

The models of random weights, with their conversions for the peers, take 60 GB in --folder. One
model beside one peer, with few rounds:

    python -m benchmarks --peers ../peers/bin/python --folder /tmp/models --rounds 3 \\
        --models 7B-width --precisions int4,file --only decode,prefill --against llama.cpp
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import KINDS, Bench, subjects
from benchmarks.models import MODELS, prepare
from benchmarks.peers import PEERS
from benchmarks.report import Report, disturbance_note, machine_note
from benchmarks.sides import Rounds
from llama_cpu.system.processor import physical_cores
from llama_cpu.weights.formats import FORMATS

PRECISIONS = tuple(precision.label for precision in FORMATS)


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report, rounds = Report(), Rounds(args.rounds, args.patience)
        bench = Bench(rounds, report, args.threads, args.peers)
        try:
            for name in args.models:
                files = prepare(name, folder, args.peers)
                for precision in args.precisions:
                    for subject in subjects(bench, name, files, precision):
                        subject.measure(args.only, args.against)
        finally:
            bench.close()
            report.note(f"Medians of {args.rounds} rounds.")
            if bench.machine_samples:
                report.note(machine_note(bench.machine_samples, args.threads))
                report.note(disturbance_note(rounds.disturbed))
            report.finish()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        default=sys.executable,
        help="Python interpreter of the environment with the peers (default: this one)",
    )
    parser.add_argument(
        "--folder", type=Path, help="folder for the models (default: a temporary one)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument(
        "--patience",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long each measurement waits for other programs to leave the cores (default: 5)",
    )
    for option, choices, default in (
        ("--models", MODELS, tuple(MODELS)),
        ("--precisions", PRECISIONS, PRECISIONS),
        ("--only", KINDS, KINDS),
        ("--against", PEERS, ("llama.cpp", "CTranslate2", "OpenVINO")),
    ):
        names = tuple(choices)
        parser.add_argument(
            option,
            type=some_of(names),
            default=default,
            metavar="NAME,...",
            help=f"some of {','.join(names)} (default: {','.join(default)})",
        )
    return parser.parse_args()


def some_of(names: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return the argparse type of an option that is a list of names, which may be empty."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(name for name in text.split(",") if name)
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(names)}")
        return chosen

    return parse


if __name__ == "__main__":
    main()
