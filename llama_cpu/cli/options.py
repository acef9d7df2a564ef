"""The options of the commands, and what may be given for each."""

import argparse
import sys
from pathlib import Path

from llama_cpu import __version__
from llama_cpu.errors import EXIT_USER_ERROR
from llama_cpu.settings.user_config import KV_FILE_MIB, KV_FILES_MIB, LARGEST_MIB
from llama_cpu.weights.formats import DEFAULT, FORMATS

_FILES = """\
files:
  model/       params.json with consolidated.00.pth, all consolidated.NN.pth shards or merged.pth
               (Meta); config.json with *.safetensors or pytorch_model*.bin (Hugging Face); or a
               .gguf file
  tokenizer/   tokenizer.model, where the model does not bring its own
With nothing there, a small demo model is fetched and used.
"""


class Parser(argparse.ArgumentParser):
    """Options may be written with hyphens or underscores; errors are one line."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        words = sys.argv[1:] if args is None else list(args)
        end = words.index("--") if "--" in words else len(words)
        options = [_with_underscores(word) for word in words[:end]]
        return super().parse_known_args(options + words[end:], namespace)

    def error(self, message: str):  # type: ignore[override]
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What the chat and the completion of one prompt have in common."""
    model = parser.add_argument_group("model")
    model.add_argument("--ckpt_dir", type=Path, metavar="PATH", help="model folder or .gguf file")
    model.add_argument(
        "--tokenizer_path", type=Path, metavar="PATH", help="tokenizer file, or its folder"
    )
    precision = model.add_mutually_exclusive_group()
    for each in FORMATS:
        precision.add_argument(
            each.switch,
            dest="precision",
            action="store_const",
            const=each.label,
            default=DEFAULT.label,
            help=each.help,
        )
    model.add_argument(
        "--max_seq_len",
        type=int,
        metavar="N",
        help="context length in tokens (default: what the model was trained for, at most 4096)",
    )
    model.add_argument(
        "--threads", type=_thread_count, metavar="N", help="threads (default: the physical cores)"
    )
    model.add_argument(
        "--mmap",
        action="store_true",
        default=None,
        help="use weights where they lie in the files, without a copy: ready at once (default: "
        "unless the processor has a faster layout for them)",
    )
    model.add_argument(
        "--no_mmap", dest="mmap", action="store_false", help="copy all of them into memory"
    )
    model.add_argument(
        "--lookup",
        action="store_true",
        default=None,
        help="propose what followed the same tokens before, and check several in one pass "
        "(default: where that costs little; the answer is the same)",
    )
    model.add_argument("--no_lookup", dest="lookup", action="store_false", help="do not")
    model.add_argument(
        "--draft_ckpt_dir",
        type=Path,
        metavar="PATH",
        help="a small model with the same vocabulary that proposes tokens instead",
    )
    model.add_argument(
        "--force", action="store_true", help="load even if the memory does not seem to suffice"
    )
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--temperature", type=float, metavar="T", help="0 always takes the best token (default 0.8)"
    )
    answers.add_argument(
        "--top_p", type=float, metavar="P", help="draw from the best tokens up to P (default 0.95)"
    )
    answers.add_argument(
        "--top_k", type=int, metavar="K", help="draw from the K best tokens (default: no limit)"
    )
    answers.add_argument(
        "--min_p", type=float, metavar="P", help="no token below P times the best one's probability"
    )
    answers.add_argument(
        "--repetition_penalty", type=float, metavar="R", help="above 1 discourages repetition"
    )
    answers.add_argument("--seed", type=int, metavar="N", help="the same answers every time")
    answers.add_argument(
        "--max_gen_len",
        type=_positive,
        default=1024,
        metavar="N",
        help="tokens in an answer at the most (default 1024)",
    )
    answers.add_argument("--system", metavar="TEXT", help="system prompt")
    answers.add_argument(
        "--template",
        metavar="NAME",
        help="llama-2, llama-3, chatml, vicuna, alpaca, transcript or a Jinja file "
        "(default: the model's own)",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--debug", action="store_true", help="show where in the program an error came from"
    )
    parser.add_argument("--version", action="version", version=f"llama_cpu {__version__}")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    file = parser.add_mutually_exclusive_group()
    file.add_argument(
        "--config", type=Path, metavar="PATH", help="your defaults (see llama-cpu config)"
    )
    file.add_argument("--no_config", action="store_true", help="without your defaults")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= LARGEST_MIB):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number up to {LARGEST_MIB}")
    return int(text)


def _thread_count(text: str) -> int:
    number = _positive(text)
    if number > 1024:  # some thousands more, and the threads' library crashes
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return number


def _model_parser(prog: str, description: str) -> argparse.ArgumentParser:
    return Parser(
        prog=prog,
        description=description,
        epilog=_FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def chat_parser(prog: str) -> argparse.ArgumentParser:
    from llama_cpu.cli.history import add_history_argument

    parser = _model_parser(prog, "Chat with a LLaMA model on the CPU, in the terminal.")
    parser.add_argument(
        "--plain", action="store_true", help="no app, as in a pipe: also for screen readers"
    )
    history = parser.add_argument_group("conversations")
    where = history.add_mutually_exclusive_group()
    add_history_argument(where)
    where.add_argument(
        "--no_history", action="store_true", help="keep nothing of this chat on the disk"
    )
    history.add_argument(
        "--continue",
        dest="continue_latest",
        action="store_true",
        help="go on with the latest conversation",
    )
    history.add_argument(
        "--kv_file_mib",
        type=_size,
        default=KV_FILE_MIB,
        metavar="N",
        help="MiB of a conversation's KV cache that are kept on the disk when you leave it, so "
        f"that it need not be computed again (default {KV_FILE_MIB}; 0: none)",
    )
    history.add_argument(
        "--kv_files_mib",
        type=_size,
        default=KV_FILES_MIB,
        metavar="N",
        help=f"MiB of all of these files together, the oldest go first (default {KV_FILES_MIB})",
    )
    add_model_arguments(parser)
    return parser


def complete_parser(prog: str) -> argparse.ArgumentParser:
    parser = _model_parser(
        prog, "Complete one prompt: the text to standard output, figures to standard error."
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the text to complete; - reads it")
    parser.add_argument("--chat", action="store_true", help="ask it as a question in a chat")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_model_arguments(parser)
    return parser
