"""Count right answers to 40 simple questions with several sampling settings.

    python -m benchmarks.questions                            # the model of the chat
    python -m benchmarks.questions --ckpt_dir PATH --settings model --settings temperature=0
    python -m benchmarks.questions --seeds 5 --show           # prints every wrong answer

Each question begins a conversation, and its answer may have 128 tokens. ``--settings model`` are
the defaults of the model, which the chat uses; other settings are numbers, such as
``temperature=0.2,top_p=0.9``, and whatever they do not name has no effect. Sampled settings are
tried with several seeds.

An answer is right if the first word in its first 30 words that could be an answer to a question of
that kind (a number, a colour, a day, ...) is the right one; words of the question do not count. So
"Le Bristol is the capital of France" is wrong, and so is "red, green or blue" for the colour of the
sky. The table contains:

- "right": the share of right answers over all seeds, and the fewest and the most of one seed;
- "loops": answers that repeated themselves, which is noticed by the rule of the chat;
- "unended": further answers that did not end within 128 tokens;
- "France": how often the first question, the capital of France, was answered right.
"""
# ruff: noqa: E402

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag

from llama_cpu.system.process import prepare_for_torch

prepare_for_torch()  # before torch is imported

from llama_cpu.chat.open_session import sampling_from
from llama_cpu.chat.session import ChatSession
from llama_cpu.chat.templates import choose_template
from llama_cpu.errors import UserError
from llama_cpu.generation.events import Finished, StopReason, Token
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.load import load
from llama_cpu.loading.plan import LoadPlan, plan_loading
from llama_cpu.settings.generation_settings import RANGES

ANSWER = 128  # tokens
LEADING = 30  # words in which the answer must be
NO_EFFECT = Sampling(temperature=1.0, top_p=1.0)
DEFAULT_SETTINGS = (
    "model",
    "temperature=0",
    "temperature=0.8,top_p=0.95",
    "temperature=0.2,top_p=0.9",
)
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_KINDS = {
    "number": rf"\d+|{'|'.join(_NUMBERS.split())}|hundred|thousand",
    "colour": "red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|grey|gray|gold",
    "day": "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "month": "january|february|march|april|may|june|july|august|september|october|november"
    "|december",
    "other": "",  # only the right words
}


@dataclass(frozen=True)
class Question:
    """A question, its right answers in small letters, and their kind, a key of _KINDS."""

    text: str
    answers: tuple[str, ...]
    kind: str = "other"

    def is_right(self, answer: str) -> bool:
        """Whether the first possible answer among the first words is a right one."""
        begin = " ".join(answer.lower().split()[:LEADING])
        accepted = "|".join(map(re.escape, self.answers))
        pattern = "|".join(filter(None, (accepted, _KINDS[self.kind])))
        asked = set(self._words(pattern, self.text.lower())) - set(self.answers)
        found = [word for word in self._words(pattern, begin) if word not in asked]
        return bool(found) and found[0] in self.answers

    @staticmethod
    def _words(pattern: str, text: str) -> list[str]:
        return re.findall(rf"\b(?:{pattern})\b", text)


def _ask(text: str, answers: str, kind: str = "other") -> Question:
    return Question(text, tuple(answers.split("|")), kind)


QUESTIONS = (
    _ask("What is the capital of France?", "paris"),
    _ask("What is the capital of Germany?", "berlin"),
    _ask("What is the capital of Italy?", "rome"),
    _ask("What is the capital of Spain?", "madrid"),
    _ask("What is the capital of England?", "london"),
    _ask("What is the capital of Japan?", "tokyo"),
    _ask("What is the capital of Russia?", "moscow"),
    _ask("What is the capital of China?", "beijing"),
    _ask("What is the capital of Egypt?", "cairo"),
    _ask("What is the capital of Greece?", "athens"),
    _ask("What color is grass?", "green", "colour"),
    _ask("What color is the sky on a clear day?", "blue", "colour"),
    _ask("What color is a banana?", "yellow", "colour"),
    _ask("What color is snow?", "white", "colour"),
    _ask("What color is blood?", "red", "colour"),
    _ask("What color is coal?", "black", "colour"),
    _ask("What is 2 + 2?", "4|four", "number"),
    _ask("What is 3 + 5?", "8|eight", "number"),
    _ask("What is 10 - 4?", "6|six", "number"),
    _ask("What is 5 times 2?", "10|ten", "number"),
    _ask("How many days are in a week?", "7|seven", "number"),
    _ask("How many months are in a year?", "12|twelve", "number"),
    _ask("How many legs does a spider have?", "8|eight", "number"),
    _ask("How many minutes are in an hour?", "60|sixty", "number"),
    _ask("What is the opposite of hot?", "cold|cool"),
    _ask("What is the opposite of big?", "small|little|tiny"),
    _ask("What is the opposite of up?", "down"),
    _ask("What is the opposite of day?", "night"),
    _ask("What is the opposite of black?", "white", "colour"),
    _ask("Which day comes after Monday?", "tuesday", "day"),
    _ask("Which month comes after June?", "july", "month"),
    _ask("Which planet do we live on?", "earth"),
    _ask("What is the largest ocean on Earth?", "pacific"),
    _ask("What is frozen water called?", "ice"),
    _ask("Which animal says meow?", "cat|cats"),
    _ask("What do bees make?", "honey"),
    _ask("Who wrote Romeo and Juliet?", "shakespeare"),
    _ask("Which star gives the Earth light and warmth?", "sun"),
    _ask("What language is spoken in Brazil?", "portuguese"),
    _ask("What gas do humans need to breathe?", "oxygen"),
)


@dataclass(frozen=True)
class Answer:
    """An answer to one of the questions."""

    question: Question
    text: str
    reason: StopReason

    @property
    def is_right(self) -> bool:
        return self.question.is_right(self.text)


Round = Sequence[Answer]  # the answers to all questions with one seed


def main() -> None:
    args = parse_arguments()
    try:
        plan = plan_loading(args.ckpt_dir, args.tokenizer_path, threads=args.threads)
        wanted = {name: settings_of(name, plan) for name in args.settings or DEFAULT_SETTINGS}
        session = open_session(plan)
    except UserError as error:
        sys.exit(f"Error: {error}")
    rows = {}
    for name, sampling in wanted.items():
        seeds = range(args.seeds if sampling.temperature else 1)
        rows[name] = [ask_all(session, replace(sampling, seed=seed), args.system) for seed in seeds]
        print(row(name, sampling, rows[name]), file=sys.stderr)  # the table takes minutes
        if args.show:
            show_wrong(rows[name])
    session.close()
    print(table([row(name, wanted[name], rounds) for name, rounds in rows.items()]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt_dir", type=Path, help="default: as in the chat")
    parser.add_argument("--tokenizer_path", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument("--seeds", type=int, default=3, help="of sampled settings (default: 3)")
    parser.add_argument(
        "--settings",
        action="append",
        metavar="NAME=NUMBER,...",
        help="'model', or numbers such as temperature=0.2,top_p=0.9; may be given several times "
        f"(default: {' '.join(DEFAULT_SETTINGS)})",
    )
    parser.add_argument("--show", action="store_true", help="print every wrong answer")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be at least 1.")
    return args


def settings_of(text: str, plan: LoadPlan) -> Sampling:
    """Parse settings. Raises UserError for an unknown name or a number out of range."""
    if text == "model":
        return sampling_from(plan, argparse.Namespace(seed=None, **dict.fromkeys(RANGES)))
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in RANGES:
            raise UserError(f"{name!r} is none of {', '.join(RANGES)}.")
        try:
            values[name] = int(number) if isinstance(RANGES[name][0], int) else float(number)
        except ValueError as error:
            raise UserError(f"{part!r} has no number.") from error
    return replace(NO_EFFECT, **values)  # type: ignore[arg-type]  # checked by Sampling


def open_session(plan: LoadPlan) -> ChatSession:
    """Load the model with its own template."""
    template = choose_template(None, plan.tokenizer, plan.name)
    loaded = load(plan, lambda *_: None, Flag())
    return ChatSession(loaded, template, NO_EFFECT, ANSWER)


def ask_all(session: ChatSession, sampling: Sampling, system: str = "") -> Round:
    """Answer every question. Each has a seed of its own, made from that of ``sampling``."""
    answers = []
    for number, question in enumerate(QUESTIONS):
        seed = 1000 * (sampling.seed or 0) + number
        answers.append(ask(session, question, replace(sampling, seed=seed), system))
    return answers


def ask(session: ChatSession, question: Question, sampling: Sampling, system: str = "") -> Answer:
    """Answer one question in a new conversation."""
    session.conversation.clear()
    session.apply(session.settings.updated({**vars(sampling), "system": system}))
    session.add_user(question.text)
    text, reason = "", StopReason.STOPPED
    for event in session.answer(Flag()):
        if isinstance(event, Token | Finished):
            text += event.text
        if isinstance(event, Finished):
            reason = event.reason
    return Answer(question, text, reason)


def row(name: str, sampling: Sampling, rounds: Sequence[Round]) -> str:
    """Write one row of the table."""
    right = [sum(answer.is_right for answer in each) for each in rounds]
    answers = [answer for each in rounds for answer in each]
    loops = sum(answer.reason is StopReason.REPETITION for answer in answers)
    unended = sum(answer.reason is StopReason.LENGTH for answer in answers)
    france = sum(each[0].is_right for each in rounds)
    shown = described(sampling) if name == "model" else name.replace(",", ", ")
    label = f"the model's: {shown}" if name == "model" else shown
    return (
        f"| {label} | {sum(right) / len(answers):.0%} | {min(right)} to {max(right)} | "
        f"{loops / len(answers):.1%} | {unended / len(answers):.1%} | {france} of {len(rounds)} |"
    )


def described(sampling: Sampling) -> str:
    """Name the settings that have an effect."""
    values = {name: getattr(sampling, name) for name in RANGES}
    none = {name: getattr(NO_EFFECT, name) for name in RANGES}
    if sampling.temperature == 0:
        values["top_p"] = none["top_p"]
    return ", ".join(f"{name}={each:g}" for name, each in values.items() if each != none[name])


def table(rows: Sequence[str]) -> str:
    """Join the rows to a table."""
    head = ("settings", "right", f"right of {len(QUESTIONS)} by seed", "loops", "unended", "France")
    return "\n".join(["| " + " | ".join(head) + " |", "| --- " * len(head) + "|", *rows])


def show_wrong(rounds: Sequence[Round]) -> None:
    """Print the wrong answers and those that did not end."""
    for answer in (answer for each in rounds for answer in each):
        if not answer.is_right or answer.reason is not StopReason.END:
            mark = "right" if answer.is_right else "WRONG"
            text = " ".join(answer.text.split())
            print(f"  {mark} {answer.reason.value}: {answer.question.text} {text[:200]}")


if __name__ == "__main__":
    main()
