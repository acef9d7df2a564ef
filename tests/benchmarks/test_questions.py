"""The questions that measure settings: what counts as right, and how settings are read."""

from pathlib import Path

import pytest

from benchmarks.questions import (
    ANSWER,
    NO_EFFECT,
    QUESTIONS,
    Answer,
    Question,
    ask,
    open_session,
    row,
    settings_of,
)
from llama_cpu.errors import UserError
from llama_cpu.generation.events import StopReason
from llama_cpu.generation.sampling import Sampling
from llama_cpu.loading.plan import plan_loading

QUESTION = {question.text: question for question in QUESTIONS}


def test_there_are_forty_different_ones() -> None:
    assert len(QUESTIONS) == len(QUESTION) == 40


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("What is the capital of France?", "The capital of France is Paris.", True),
        ("What is the capital of France?", "**PARIS**", True),
        ("What is the capital of France?", "Le Bristol is the capital of France.", False),
        ("What is the capital of France?", "Lyon. " * 40 + "Or Paris.", False),
        ("What is the capital of France?", "Parisian fashion is its capital.", False),
        ("What is 3 + 5?", "3 + 5 equals 8.", True),
        ("What is 3 + 5?", "3 + 5 = 9, not 8.", False),
        ("What is 2 + 2?", "2 + 2 = 4", True),
        ("What is the opposite of black?", "The opposite of black is white.", True),
        ("What color is a banana?", "Bananas are red or yellow.", False),
        ("Which day comes after Monday?", "After Monday comes Tuesday.", True),
        ("How many days are in a week?", "", False),
    ],
)
def test_what_is_right(question: str, answer: str, right: bool) -> None:
    assert QUESTION[question].is_right(answer) is right


def test_a_row_counts() -> None:
    question = Question("What is frozen water called?", ("ice",))
    texts = [
        ("Ice.", StopReason.END),
        ("Water water", StopReason.REPETITION),
        ("", StopReason.LENGTH),
    ]
    answers = [Answer(question, text, reason) for text, reason in texts]
    shown = row("temperature=0.5,top_k=5", Sampling(temperature=0.5), [answers, answers[:1] * 3])
    assert shown == "| temperature=0.5, top_k=5 | 67% | 1 to 3 | 16.7% | 16.7% | 2 of 2 |"


def test_the_first_answer_of_the_demo_model_is_right(demo_model: Path) -> None:
    """With the settings that a newcomer has, whatever the seed."""
    plan = plan_loading(demo_model, threads=2)
    own = settings_of("model", plan)
    assert own.temperature == 0.0
    assert settings_of("temperature=0.2,top_k=5", plan) == Sampling(0.2, 5, NO_EFFECT.top_p)
    for wrong in ("heat=1", "temperature", "temperature=hot", "top_k=1.5"):
        with pytest.raises(UserError):
            settings_of(wrong, plan)
    session = open_session(plan)
    answer = ask(session, QUESTIONS[0], own)
    session.close()
    assert answer.is_right and answer.reason is StopReason.END and len(answer.text.split()) < ANSWER
