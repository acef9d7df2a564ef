"""Times of the tokens of one answer, and their statistics."""

from dataclasses import dataclass, field

from llama_cpu.generation.events import Event, Prefill, Token


@dataclass
class Timings:
    """Times (in seconds) and token counts of one answer.

    ``token_seconds`` has one entry per generated token, including the end token. The first entry is
    short, as it is only the time to sample from the prompt's logits; the time until a user sees the
    first token is ``time_to_first_token``.
    """

    reused_tokens: int = 0  # prompt tokens found in the KV cache
    prompt_tokens: int = 0  # prompt tokens to compute
    prompt_done: int = 0  # prompt tokens computed so far
    prefill_seconds: float = 0.0
    token_seconds: list[float] = field(default_factory=list)
    is_stopped: bool = False  # the answer has ended, perhaps before its first token
    drafted_tokens: int = 0  # accepted draft tokens, which needed no pass of their own

    def observe(self, event: Event) -> None:
        """Record one event of the answer."""
        if isinstance(event, Prefill):
            self.reused_tokens, self.prompt_tokens = event.reused, event.total
            self.prompt_done, self.prefill_seconds = event.done, event.seconds
        elif isinstance(event, Token):
            self.token_seconds.append(event.seconds)
            self.drafted_tokens += event.drafted

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_done / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def time_to_first_token(self) -> float | None:
        return self.prefill_seconds + self.token_seconds[0] if self.token_seconds else None

    @property
    def _decode_seconds(self) -> list[float]:
        return self.token_seconds[1:]

    @property
    def decode_rate(self) -> float:
        """Tokens per second, not counting the first one."""
        total = sum(self._decode_seconds)
        return len(self._decode_seconds) / total if total else 0.0

    @property
    def tokens_per_pass(self) -> float | None:
        """Generated tokens per forward pass: above 1 if draft tokens were accepted."""
        count = len(self.token_seconds)
        return count / (count - self.drafted_tokens) if count else None

    @property
    def last(self) -> float | None:
        return self.token_seconds[-1] if self.token_seconds else None

    @property
    def median(self) -> float | None:
        import statistics  # takes a tenth of the time until the app is on the screen

        return statistics.median(self._decode_seconds) if self._decode_seconds else None

    @property
    def percentile_95(self) -> float | None:
        """Nearest rank: the smallest time that at least 95% of the tokens did not exceed."""
        if not self._decode_seconds:
            return None
        ordered = sorted(self._decode_seconds)
        return ordered[-(-95 * len(ordered) // 100) - 1]
