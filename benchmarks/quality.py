"""Compare the quality of the weight formats, and of llama.cpp's, on ordinary English text.

    python -m benchmarks.quality                      # the model of the chat, each format
    python -m benchmarks.quality --ckpt_dir PATH --precisions float32,bf16
    python -m benchmarks.quality --peers ../peers/bin/python --folder /tmp/models

The reference is the first format of the list, float32. The table contains:

- the bits per weight of the matrices, with their scales;
- for each text of benchmarks/text: the perplexity and its ratio to that of the reference; the mean
  Kullback-Leibler divergence of the next token's probabilities from the reference, in thousandths
  of a nat; and "same top", the fraction of positions at which the most probable next token is that
  of the reference. Texts are read in chunks of 512 tokens; each begins with an empty KV cache, and
  its first token does not count. A chunk is read in one pass, like a prompt; ``--pass_tokens 16``
  measures the products that are used for few rows instead;
- "same answers": the fraction of greedy answers (64 tokens at most) to some questions that comes
  before the first different token.

Texts are read with a float32 KV cache on all sides, so that only the weights differ; with
``--own_cache``, ours has the type that the chat uses. With ``--peers``, the interpreter of an
environment with llama-cpp-python, llama.cpp reads the same tokens with files that it quantized from
the same weights, and our format "file" runs the same files. They are kept in ``--folder``. This
works for models in a GGUF file, such as the demo model.
"""
# ruff: noqa: E402

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

import torch
from torch import Tensor

from benchmarks.limits import bits_per_weight, tensor_bytes
from benchmarks.models import FILE, ModelFiles, files_of, main_kind
from benchmarks.sides import ROOT, SideFailed
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.load import LoadedModel, load
from llama_cpu.loading.plan import LoadPlan, plan_loading
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.system.text import human_bytes
from llama_cpu.tokenization import Tokenizer
from llama_cpu.weights.formats import FORMATS, format_of
from llama_cpu.weights.weight_format import WeightFormat

TEXTS = sorted((Path(__file__).parent / "text").glob("*.txt"))
WINDOW = 512
ANSWER = 64  # tokens
LLAMA_CPP_KINDS = ("Q8_0", "Q4_0", "Q4_K_M")
_ROWS = 64  # rows of logits converted to float64 at a time; a row of Llama 3 takes 1 MiB
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper and a whale.",
    "How do I make a good cup of tea?",
    "List five uses for an old newspaper.",
    "What is the difference between a frog and a toad?",
    "Write a Python function that reverses a string.",
    "Summarise what happens to water when it freezes.",
    "A train leaves at 3 o'clock and drives for two and a half hours. When does it arrive?",
    "Write a polite letter asking a neighbour to keep the music down.",
    "Who was Isaac Newton?",
    "Give me advice for learning to play the piano as an adult.",
)


Windows = Sequence[list[int]]  # token ids


class Reference:
    """The log-probabilities of the reference for one text, in files, as they can be large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._windows: list[Tensor] = []  # float32 [positions, vocab] each

    def of(self, number: int, logits: Tensor) -> Tensor:
        """Return those of a window; the first model to read it is the reference."""
        if number == len(self._windows):
            path = str(self._folder / f"{number}.float32")
            stored = torch.from_file(path, shared=True, size=logits.numel())
            stored = stored.view(logits.shape)
            for rows, target in zip(logits.split(_ROWS), stored.split(_ROWS), strict=True):
                target.copy_(rows.double().log_softmax(-1))
            self._windows.append(stored)
        return self._windows[number]


@dataclass(frozen=True)
class Reading:
    """A model's predictions for the tokens of a text, in order."""

    log_likelihoods: Tensor  # float64 [tokens], natural logarithms
    greedy: Tensor  # int64 [tokens], the most probable ids
    divergences: Tensor  # float64 [tokens], Kullback-Leibler from the reference, in nats

    @property
    def perplexity(self) -> float:
        return math.exp(-self.log_likelihoods.mean().item())

    def same_top(self, other: "Reading") -> float:
        return (self.greedy == other.greedy).double().mean().item()


@dataclass(frozen=True)
class Quality:
    """The results of one format."""

    weights_bytes: int
    bits: float  # per weight
    readings: dict[str, Reading]  # by the name of the text
    answers: Sequence[list[int]] = ()  # token ids, including the end token; none of llama.cpp


@dataclass(frozen=True)
class Texts:
    """What every model reads: for each text its windows, and the reference's predictions."""

    windows: Mapping[str, Windows]
    references: Mapping[str, Reference]

    @classmethod
    def of(cls, plan: LoadPlan, tokens: int, folder: Path) -> "Texts":
        """``tokens``: maximum number of each text. ``folder``: for the reference's files."""
        length = min(WINDOW, plan.max_seq_len)
        windows, references = {}, {}
        for path in TEXTS:
            text = path.read_text(encoding="utf-8")
            windows[path.stem] = text_windows(text, plan.tokenizer, tokens, length)
            (folder / path.stem).mkdir()
            references[path.stem] = Reference(folder / path.stem)
        return cls(windows, references)


@dataclass(frozen=True)
class How:
    """How our formats are measured."""

    pass_tokens: int  # per forward pass
    own_cache: bool  # read texts with the KV cache of the chat, not in float32
    questions: int  # number of answers


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "models"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            print(table(measure_all(args, folder, Path(temporary))))
        except UserError as error:
            sys.exit(f"Error: {error}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", type=Path, help="default: as in the chat")
    parser.add_argument("--tokenizer_path", type=Path)
    parser.add_argument(
        "--tokens", type=int, default=4000, help="maximum number of tokens of each text"
    )
    parser.add_argument("--precisions", type=precisions, default=FORMATS)
    parser.add_argument(
        "--pass_tokens", type=int, default=WINDOW, help="number of tokens per forward pass"
    )
    parser.add_argument(
        "--kv_int8", action="store_true", help="measure each format also with an int8 KV cache"
    )
    parser.add_argument(
        "--questions",
        type=int,
        default=len(QUESTIONS),
        help="number of questions that are answered (default: all)",
    )
    parser.add_argument(
        "--own_cache", action="store_true", help="read texts with the KV cache of the chat"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="Python interpreter of an environment with llama.cpp"
    )
    parser.add_argument(
        "--llama_cpp",
        type=lambda text: tuple(text.split(",")),
        default=LLAMA_CPP_KINDS,
        metavar="KIND,...",
        help=f"quantizations of llama.cpp (default: {','.join(LLAMA_CPP_KINDS)})",
    )
    parser.add_argument("--folder", type=Path, help="folder for the files of llama.cpp")
    args = parser.parse_args()
    if args.tokens < 2:
        parser.error("--tokens must be at least 2, because the first token is not predicted.")
    if args.pass_tokens < 1:
        parser.error("--pass_tokens must be at least 1.")
    return args


def measure_all(args: argparse.Namespace, folder: Path, temporary: Path) -> dict[str, Quality]:
    """Measure every row of the table. ``folder``: for models; ``temporary``: for the reference."""
    first = plan_loading(args.ckpt_dir, args.tokenizer_path, precision=args.precisions[0])
    texts = Texts.of(first, args.tokens, temporary)
    quantized = quantized_files(first.source, folder, args.peers, args.llama_cpp)
    how = How(args.pass_tokens, args.own_cache, args.questions)
    qualities: dict[str, Quality] = {}
    for precision in args.precisions:
        is_file = precision.label == FILE and bool(quantized)
        for kind, path in quantized.items() if is_file else [("", args.ckpt_dir)]:
            name = f"{precision.label} {kind}".strip()
            try:
                plan = plan_loading(path, args.tokenizer_path, precision=precision)
                qualities[name] = measure(name, plan, texts, how)
                if args.kv_int8:
                    plan = plan_loading(
                        path, args.tokenizer_path, precision=precision, kv_int8=True
                    )
                    name += ", KV cache int8"
                    qualities[name] = measure(name, plan, texts, replace(how, own_cache=True))
            except UserError as error:
                if not is_file:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr)
    for kind, path in quantized.items() if args.peers else []:
        name = f"llama.cpp {kind}"
        try:
            qualities[name] = measure_llama_cpp(name, path, texts, args.peers, first.threads)
        except SideFailed as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return qualities


def quantized_files(
    source: Path, folder: Path, python: str | None, kinds: Iterable[str]
) -> dict[str, Path]:
    """Return GGUF files by quantization: the model's own, and those made by llama.cpp.

    ``python``: of an environment with llama.cpp; None: only the model's own file.
    """
    if source.suffix != ".gguf":
        return {}
    files = files_of(source, folder, python or sys.executable)
    found = {main_kind(files.tensors): source} if files.source_precision is None else {}
    for kind in kinds if python else ():
        try:
            found[kind] = files.quantized(kind)
        except SideFailed as error:
            print(f"llama.cpp {kind} is left out: {error}", file=sys.stderr)
    return found


def precisions(text: str) -> list[WeightFormat]:
    """Parse the value of an option, such as ``float32,bf16``. Raises ArgumentTypeError."""
    try:
        return [format_of(name) for name in text.split(",")]
    except ValueError as error:
        names = ", ".join(precision.label for precision in FORMATS)
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {names}") from error


def measure(name: str, plan: LoadPlan, texts: Texts, how: How) -> Quality:
    """Load a model and measure its quality."""
    loaded = load(plan, lambda done, total, name: None, Flag())
    config = plan.checkpoint.config
    longest = max(len(ids) for windows in texts.windows.values() for ids in windows)
    cache = loaded.cache if how.own_cache else KVCache(config, longest, torch.float32)
    readings = {}
    for text, windows in texts.windows.items():
        print(f"{name}: reads {text}", file=sys.stderr)
        logits = our_logits(loaded.model, cache, windows, how.pass_tokens)
        readings[text] = read(logits, windows, texts.references[text])
    files = ModelFiles(plan.source, None, config, Path())
    bits = bits_per_weight(files, plan.precision.label)
    print(f"{name}: answers {how.questions} questions", file=sys.stderr)
    return Quality(loaded.weights_bytes, bits, readings, answers(loaded, how.questions))


def measure_llama_cpp(name: str, path: Path, texts: Texts, python: str, threads: int) -> Quality:
    """Measure the quality of llama.cpp with a quantized GGUF file. Raises SideFailed."""
    readings = {}
    for text, windows in texts.windows.items():
        print(f"{name}: reads {text}", file=sys.stderr)
        logits = llama_cpp_logits(path, windows, python, threads)
        readings[text] = read(logits, windows, texts.references[text])
    files = files_of(path, Path())
    return Quality(sum(tensor_bytes(files, FILE).values()), bits_per_weight(files, FILE), readings)


def text_windows(text: str, tokenizer: Tokenizer, tokens: int, window: int) -> list[list[int]]:
    """Return the first ``tokens`` ids of the text in chunks of at most ``window`` ids.

    If the model expects a bos token before a prompt, every chunk begins with it.
    """
    bos = [tokenizer.special_tokens[tokenizer.bos_token]] if tokenizer.adds_bos else []
    ids = tokenizer.encode(text, specials=False)[:tokens]
    step = window - len(bos)
    windows = [bos + ids[first : first + step] for first in range(0, len(ids), step)]
    return [ids for ids in windows if len(ids) > 1]


@torch.inference_mode()
def our_logits(
    model: Transformer, cache: KVCache, windows: Windows, pass_tokens: int = WINDOW
) -> Iterator[Tensor]:
    """Yield the logits [tokens, vocab] of each chunk, beginning with an empty KV cache."""
    for ids in windows:
        cache.reuse([])
        passes = [ids[first : first + pass_tokens] for first in range(0, len(ids), pass_tokens)]
        yield torch.cat([model.forward(some, cache, all_logits=True) for some in passes])


def llama_cpp_logits(path: Path, windows: Windows, python: str, threads: int) -> Iterator[Tensor]:
    """Yield the logits [tokens, vocab] of llama.cpp for each chunk. Raises SideFailed."""
    task = json.dumps({"model": str(path), "threads": threads, "windows": windows})
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        given.write(task.encode())
        given.seek(0)
        process = subprocess.Popen(
            [python, "-m", "benchmarks.workers.logits"],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
        )
        assert process.stdout is not None
        try:
            header = process.stdout.readline()
            for ids in windows if header else ():
                shape = (len(ids), json.loads(header)["vocab"])
                data = bytearray(process.stdout.read(4 * math.prod(shape)))
                if len(data) < 4 * math.prod(shape):
                    break
                yield torch.frombuffer(data, dtype=torch.float32).view(shape)
        finally:
            process.stdout.close()
            process.wait()
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise SideFailed((lines or [f"it ended with {process.returncode}"])[-1])


@torch.inference_mode()
def read(predictions: Iterable[Tensor], windows: Windows, reference: Reference) -> Reading:
    """Judge the logits [tokens, vocab] of each chunk, except those after its last token."""
    log_likelihoods, greedy, divergences = [], [], []
    for number, (ids, logits) in enumerate(zip(windows, predictions, strict=True)):
        logits = logits[:-1]
        expected = reference.of(number, logits)
        for rows, following, wanted in zip(
            logits.split(_ROWS),
            torch.tensor(ids[1:]).split(_ROWS),
            expected.split(_ROWS),
            strict=True,
        ):
            log_probabilities = rows.double().log_softmax(-1)  # [rows, vocab]
            log_likelihoods.append(log_probabilities.gather(1, following[:, None])[:, 0])
            greedy.append(rows.argmax(-1))
            wanted = wanted.double()
            divergences.append((wanted.exp() * (wanted - log_probabilities)).sum(-1))
    return Reading(torch.cat(log_likelihoods), torch.cat(greedy), torch.cat(divergences))


def answers(loaded: LoadedModel, count: int = len(QUESTIONS)) -> list[list[int]]:
    """Return the ids of the greedy answers to ``count`` questions, each in a new conversation."""
    template = choose_template(None, loaded.tokenizer, loaded.plan.name)
    session = ChatSession(loaded, template, Sampling(temperature=0.0), ANSWER)
    try:
        return [answer(session, question) for question in QUESTIONS[:count]]
    finally:
        session.close()


def answer(session: ChatSession, question: str) -> list[int]:
    session.conversation.clear()
    session.conversation.add_user(question)
    return [event.id for event in session.answer(Flag()) if isinstance(event, Token)]


def table(qualities: Mapping[str, Quality]) -> str:
    """Return a Markdown table with one row per format."""
    first = next(iter(qualities.values()))
    head = ["format", "weights", "bits per weight"]
    for name, reading in first.readings.items():
        tokens = len(reading.greedy)
        head += [f"perplexity of {name} ({tokens} tokens)", "ratio", "KL x 1000", "same top"]
    rows = [[*head, "same answers"], ["---"] * (len(head) + 1)]
    for label, quality in qualities.items():
        row = [label, human_bytes(quality.weights_bytes), f"{quality.bits:.2f}"]
        for name, reading in quality.readings.items():
            reference = first.readings[name]
            row += [
                f"{reading.perplexity:.3f}",
                f"{reading.perplexity / reference.perplexity:.4f}",
                f"{1000 * abs(reading.divergences.mean().item()):.2f}",
                f"{reading.same_top(reference):.1%}",
            ]
        share = same_answers(quality.answers, first.answers) if quality.answers else None
        row.append("" if share is None else f"{share:.1%}")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def same_answers(ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> float:
    """Return the fraction of their tokens that come before the first different token."""
    same = sum(common(one, other) for one, other in zip(ours, theirs, strict=True))
    return same / sum(map(len, theirs))


def common(ours: list[int], theirs: list[int]) -> int:
    """Return the length of the common prefix of two answers."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    return sum(1 for _ in pairs)


if __name__ == "__main__":
    main()
