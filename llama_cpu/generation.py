"""From prompt ids to an answer, as a stream of events. Ids in, ids and text out; no chat here."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event as Flag

import torch
from torch import Tensor

from llama_cpu.errors import Cancelled, UserError
from llama_cpu.events import Event, Finished, Prefill, StopReason, Token
from llama_cpu.sampling import Sampler
from llama_cpu.text_stream import TextStream
from llama_cpu.tokenization import Tokenizer
from llama_cpu.transformer.kv_cache import KVCache
from llama_cpu.transformer.llama import Llama

_NOT_FINITE = (
    "The model computed numbers that are not finite, so the answer ends here; "
    "its weights are probably damaged."
)


@dataclass(frozen=True)
class Limits:
    """Where an answer ends at the latest."""

    max_gen_len: int
    end_ids: frozenset[int]
    stop_strings: Sequence[str] = ()


class TextGenerator:
    """A model with its cache and tokenizer. One answer at a time."""

    def __init__(self, model: Llama, cache: KVCache, tokenizer: Tokenizer) -> None:
        self.model = model
        self.cache = cache
        self.tokenizer = tokenizer

    def generate(
        self, prompt_ids: list[int], sampler: Sampler, limits: Limits, stop: Flag
    ) -> Iterator[Event]:
        """Prefill what the cache lacks of the prompt, then one token after the other.

        Setting ``stop`` ends it within one token, or one layer of a long prefill.

        Raises UserError where the prompt does not fit into the context or is empty.
        """
        self._check_prompt(prompt_ids)
        try:
            logits = yield from self._prefill(prompt_ids, stop)
            yield from self._decode(logits, sampler, limits, stop)
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
        """Returns the logits [vocab] after the prompt."""
        reused = self.cache.reuse(prompt_ids)
        total = len(prompt_ids) - reused
        began = time.perf_counter()
        yield Prefill(reused, 0, total, 0.0)
        for first in range(reused, len(prompt_ids), self.model.prefill_chunk):
            chunk = prompt_ids[first : first + self.model.prefill_chunk]
            logits = self.model.forward(chunk, self.cache, stop)
            done = first + len(chunk) - reused
            yield Prefill(reused, done, total, time.perf_counter() - began)
        return logits

    def _decode(
        self, logits: Tensor, sampler: Sampler, limits: Limits, stop: Flag
    ) -> Iterator[Event]:
        stream = TextStream(self.tokenizer, limits.stop_strings)
        last = time.perf_counter()
        for count in range(1, limits.max_gen_len + 1):
            if stop.is_set():
                yield Finished(StopReason.STOPPED, stream.flush())
                return
            if not bool(torch.isfinite(logits).all()):
                yield Finished(StopReason.FAILED, stream.flush(), _NOT_FINITE)
                return
            token_id = sampler.sample(logits, self.cache.token_ids)
            text = "" if token_id in limits.end_ids else stream.push(token_id)
            now = time.perf_counter()
            yield Token(token_id, text, now - last)
            last = now
            if reason := self._reason_to_end(token_id, count, stream, limits):
                yield Finished(reason, stream.flush())
                return
            try:
                logits = self.model.forward([token_id], self.cache, stop)
            except Cancelled:
                yield Finished(StopReason.STOPPED, stream.flush())
                return

    def _reason_to_end(
        self, token_id: int, count: int, stream: TextStream, limits: Limits
    ) -> StopReason | None:
        if token_id in limits.end_ids:
            return StopReason.END
        if stream.stopped:
            return StopReason.STOP_STRING
        if count == limits.max_gen_len:
            return StopReason.LENGTH
        if len(self.cache) == self.cache.max_seq_len:
            return StopReason.CONTEXT
        return None
