"""The time of every token of a conversation, in prefill and decode, with statistics."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise

from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import Run, StoredMessage


@dataclass(frozen=True)
class AnswerTimes:
    """The times of one answer: ``token_seconds`` as in the history, and the runs of the model.

    An answer written by an older version has no runs, so its prefill is unknown.
    """

    model: str
    runs: Sequence[Run]
    token_ids: Sequence[int]
    token_seconds: Sequence[float]

    @property
    def parts(self) -> list[tuple[Run | None, Sequence[float]]]:
        """Each run with the times of its tokens, of which the first belongs to the prefill.

        Tokens without a known run, as at the beginning of a branch, come first, with None.
        """
        seconds = self.token_seconds
        # An imported file may contain any numbers.
        firsts = accumulate((min(run.first, len(seconds)) for run in self.runs), max)
        edges = pairwise([0, *firsts, len(seconds)])
        runs = [None, *self.runs]
        parts = [(run, seconds[a:b]) for run, (a, b) in zip(runs, edges, strict=True)]
        return parts if parts[0][1] else parts[1:]

    @property
    def decode_seconds(self) -> list[float]:
        """The time of every decoded token, or its share of a pass."""
        return [each for _, seconds in self.parts for each in seconds[1:] if is_time(each)]

    @property
    def prefill_seconds(self) -> list[float]:
        """For each prompt that was computed: the time per prompt token."""
        return [run.seconds / run.computed for run in self.runs if run.computed]


def is_time(seconds: float) -> bool:
    """Whether the number can be a time; an imported file may contain any numbers."""
    return math.isfinite(seconds) and seconds >= 0


def answer_times(
    line: Sequence[StoredMessage], now: Timings | None = None, model: str = ""
) -> list[AnswerTimes]:
    """The times of the answers in a line.

    ``now``: the timings of the answer that ``model`` is generating. This answer is not in the line
    yet, or it continues the last message.
    """
    answers = [_stored(each) for each in line if each.role == "assistant"]
    if now is None:
        return answers
    if not line or line[-1].role != "assistant":
        answers.append(AnswerTimes(model, (), (), ()))
    answers[-1] = _going_on(answers[-1], now)
    return answers


def _stored(message: StoredMessage) -> AnswerTimes:
    return AnswerTimes(message.model, message.runs, message.token_ids, message.token_seconds)


def _going_on(answer: AnswerTimes, now: Timings) -> AnswerTimes:
    # Either every token has a time or none has, and an end token has none; see chat/autosave.py.
    has_seconds = len(answer.token_seconds) >= len(answer.token_ids)
    earlier = list(answer.token_seconds[: len(answer.token_ids)]) if has_seconds else []
    seconds = [*earlier, *now.token_seconds.copy()] if has_seconds else []
    prompt = (now.reused_tokens, now.prompt_done, now.prefill_seconds)
    run = Run(len(earlier), *prompt, now.drafted_tokens)
    return replace(answer, runs=[*answer.runs, run], token_seconds=seconds)


@dataclass(frozen=True)
class Totals:
    """Statistics of one answer or of a conversation. Times are in seconds.

    If nothing was measured, a rate is 0.0 and any other value None.
    """

    reused_tokens: int
    prompt_tokens: int  # computed
    prefill_seconds: float
    decode_tokens: int
    decode_seconds: float
    tokens_per_pass: float | None
    median: float | None
    percentile_95: float | None
    slowest: float | None
    without_runs: int  # answers without runs: only the times of tokens are known

    @property
    def cache_hits(self) -> float | None:
        """The fraction of prompt tokens that was found in the KV cache."""
        whole = self.reused_tokens + self.prompt_tokens
        return self.reused_tokens / whole if whole else None

    @property
    def prefill_rate(self) -> float:
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_rate(self) -> float:
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


def totals(answers: Sequence[AnswerTimes]) -> Totals:
    """Compute the statistics of these answers."""
    runs = [run for answer in answers for run in answer.runs]
    seconds = sorted(chain.from_iterable(answer.decode_seconds for answer in answers))
    counted = [len(times) for each in answers for run, times in each.parts if run]
    passes = sum(counted) - sum(run.drafted for run in runs)
    return Totals(
        reused_tokens=sum(run.reused for run in runs),
        prompt_tokens=sum(run.computed for run in runs),
        prefill_seconds=sum(run.seconds for run in runs),
        decode_tokens=len(seconds),
        decode_seconds=math.fsum(seconds),
        tokens_per_pass=sum(counted) / passes if passes > 0 else None,
        median=statistics.median(seconds) if seconds else None,
        percentile_95=seconds[-(-95 * len(seconds) // 100) - 1] if seconds else None,
        slowest=seconds[-1] if seconds else None,
        without_runs=sum(not each.runs for each in answers),
    )
