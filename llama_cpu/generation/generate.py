"""Generation of an answer to a prompt, as a stream of events: prefill, then decode."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event as Flag

from torch import Tensor

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.generation.detokenizer import TextStream
from llama_cpu.generation.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.generation.repetition import LoopDetector
from llama_cpu.generation.sampling import Sampler
from llama_cpu.generation.speculative_decoding import Drafter, DraftLength
from llama_cpu.model.kv_cache import KVCache
from llama_cpu.model.transformer import Transformer
from llama_cpu.tokenization import Tokenizer

_NOT_FINITE = (
    "The model computed numbers that are not finite, so the answer ends here; "
    "its weights are probably damaged."
)


@dataclass(frozen=True)
class Limits:
    """The conditions that end an answer: a number of tokens, end tokens, and stop strings.

    ``end_loops``: also end an answer that repeats itself; see llama_cpu.generation.repetition.
    """

    max_gen_len: int
    end_ids: frozenset[int]
    stop_strings: Sequence[str] = ()
    end_loops: bool = False


class TextGenerator:
    """A model with its KV cache and tokenizer; it generates one answer at a time.

    ``new_drafter`` is called for each answer. Its drafter proposes up to ``longest_draft`` tokens,
    which one forward pass verifies; see llama_cpu.generation.speculative_decoding.
    """

    def __init__(
        self,
        model: Transformer,
        cache: KVCache,
        tokenizer: Tokenizer,
        new_drafter: Callable[[], Drafter] | None = None,
        longest_draft: int = 0,
    ) -> None:
        self.model = model
        self.cache = cache
        self.tokenizer = tokenizer
        self.new_drafter = new_drafter
        self.draft_length = DraftLength(longest_draft)

    def generate(
        self,
        prompt_ids: list[int],
        sampler: Sampler,
        limits: Limits,
        stop: Flag,
        begun: Sequence[int] = (),
    ) -> Iterator[Event]:
        """Prefill the part of the prompt that is not in the cache, then generate tokens.

        ``begun``: the prompt's last tokens, if it ends in the middle of a character. Setting
        ``stop`` ends the answer within one token, or within one layer during the prefill.

        Raises UserError if the prompt is empty or does not fit in the context.
        """
        self._check_prompt(prompt_ids)
        try:
            logits = yield from self._prefill(prompt_ids, stop)
            stream = TextStream(self.tokenizer, limits.stop_strings, begun)
            answer = _Answer(prompt_ids, sampler, limits, stream, self.tokenizer)
            yield from self._decode(logits, answer, stop)
        except Cancelled:
            yield Finished(StopReason.STOPPED)

    def _check_prompt(self, prompt_ids: list[int]) -> None:
        if not prompt_ids:
            raise UserError("The prompt is empty; type something.")
        size = self.cache.max_seq_len
        if len(prompt_ids) >= size:
            raise UserError(
                f"The prompt has {len(prompt_ids)} tokens but the context holds {size}; shorten "
                "it, or start with a greater --max_seq_len where the model allows it."
            )

    def _prefill(self, prompt_ids: list[int], stop: Flag) -> Generator[Event, None, Tensor]:
        """Process the prompt and return the logits [vocab] after it."""
        reused = self.cache.reuse(prompt_ids)
        total = len(prompt_ids) - reused
        began = time.perf_counter()
        yield Prefill(reused, 0, total, 0.0)
        n_layers = self.model.config.n_layers
        for first in range(reused, len(prompt_ids), self.model.prefill_chunk):
            chunk = prompt_ids[first : first + self.model.prefill_chunk]
            for layer, x in self.model.layers(chunk, self.cache, stop):
                last = x[-1:]  # after the loop, the last layer's output for the last token
                done = first - reused + len(chunk) * layer // n_layers
                yield Prefill(reused, done, total, time.perf_counter() - began)
        return self.model.logits(last)[0]

    def _decode(self, logits: Tensor, answer: "_Answer", stop: Flag) -> Iterator[Event]:
        drafter = self.new_drafter() if self.new_drafter else None
        rows = logits.unsqueeze(0)
        draft: list[int] = []
        last = pass_began = time.perf_counter()
        while True:
            if stop.is_set():
                yield Finished(StopReason.STOPPED, answer.stream.flush())
                return
            if not math.isfinite(rows.sum()):  # the sum is not finite if any logit is not
                yield Finished(StopReason.FAILED, answer.stream.flush(), _NOT_FINITE)
                return
            tokens = answer.sample(rows, draft)
            if not answer.reason and len(answer.context) > self.cache.max_seq_len:
                answer.reason = StopReason.CONTEXT
            self.cache.truncate(len(answer.context) - 1)  # drop rejected draft tokens
            now = time.perf_counter()
            seconds = now - last
            last = now
            if answer.count > len(tokens):  # the first token needs no pass after the prefill
                self.draft_length.observe(len(draft), len(tokens) - 1, now - pass_began)
            for position, (token_id, text) in enumerate(tokens):
                yield Token(token_id, text, seconds / len(tokens), drafted=position > 0)
            if answer.reason:
                yield Finished(answer.reason, answer.stream.flush())
                return
            draft = self._draft(drafter, answer) if drafter else []
            # Time in which a draft model only prefilled is not counted as part of the pass.
            pass_began = last if draft else time.perf_counter()
            try:
                rows = self.model.forward(
                    [answer.context[-1], *draft], self.cache, stop, all_logits=True
                )
            except Cancelled:
                yield Finished(StopReason.STOPPED, answer.stream.flush())
                return

    def _draft(self, drafter: Drafter, answer: "_Answer") -> list[int]:
        """Return draft tokens, as many as the limits and the context allow."""
        left = answer.limits.max_gen_len - answer.count - 1
        room = min(self.cache.max_seq_len - len(answer.context), left)
        count = min(self.draft_length.choose(), room)
        return drafter.propose(answer.context, count) if count > 0 else []


class _Answer:
    """The answer so far, and the reason to end it, if any."""

    def __init__(
        self,
        prompt_ids: list[int],
        sampler: Sampler,
        limits: Limits,
        stream: TextStream,
        tokenizer: Tokenizer,
    ) -> None:
        self.context = prompt_ids.copy()  # the prompt and the answer
        self.limits = limits
        self.stream = stream
        self.count = 0  # of tokens in the answer
        self.reason: StopReason | None = None
        self._sampler = sampler
        self._tokenizer = tokenizer
        self._loop = LoopDetector()

    def sample(self, rows: Tensor, draft: list[int]) -> list[tuple[int, str]]:
        """Sample tokens, with their texts, from the logits [1 + len(draft), vocab] of one pass.

        Returns the accepted draft tokens and one more token, or fewer if the answer ends.
        """
        tokens = []
        for row, proposed in zip(rows, [*draft, None], strict=True):
            token_id = self._sampler.sample(row, self.context)
            ends = token_id in self.limits.end_ids
            tokens.append((token_id, "" if ends else self.stream.push(token_id)))
            self.context.append(token_id)
            self.count += 1
            self.reason = self._reason_to_end(token_id, ends)
            if self.reason or token_id != proposed:
                break
        return tokens

    def _reason_to_end(self, token_id: int, ends: bool) -> StopReason | None:
        if ends:
            return StopReason.END
        if self.stream.stopped:
            return StopReason.STOP_STRING
        if self.limits.end_loops and self._is_loop(token_id):
            return StopReason.REPETITION
        if self.count == self.limits.max_gen_len:
            return StopReason.LENGTH
        return None

    def _is_loop(self, token_id: int) -> bool:
        piece = self._tokenizer.token_bytes(token_id).decode(errors="replace")
        return self._loop.push(token_id, piece)
