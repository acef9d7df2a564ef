"""A conversation with a loaded model; what the app, the plain chat and one completion talk to."""

from collections.abc import Iterator
from dataclasses import replace
from threading import Event as Flag

from llama_cpu.chat.prompt import Message, build_prompt
from llama_cpu.chat.templates import NAMED_TEMPLATES, ChatTemplate, TemplateRenderer
from llama_cpu.events import Event, Finished, Token, TurnsDropped
from llama_cpu.generation import Limits, TextGenerator
from llama_cpu.loading import LoadedModel
from llama_cpu.machine import MemoryReport
from llama_cpu.sampling import Sampler, Sampling
from llama_cpu.text_stream import ids_of_text


class ChatSession:
    """Messages and the KV cache that goes with them.

    Between turns the cache is kept: an answer computes only those tokens of its prompt that the
    cache does not begin with, also after a message was dropped or edited.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        template: ChatTemplate,
        sampling: Sampling,
        max_gen_len: int,
        system: str | None = None,
    ) -> None:
        self.loaded = loaded
        self.template_name = template.name
        self.template_guessed = template.guessed
        self.messages = [Message("system", system)] if system else []
        self._dropped = 0  # messages after the system prompt that no longer fit
        self._generator = TextGenerator(
            loaded.model, loaded.cache, loaded.tokenizer, loaded.new_drafter, loaded.longest_draft
        )
        self._sampler = Sampler(sampling)
        self._limits = Limits(max_gen_len, loaded.end_ids, template.stop_strings)
        tokenizer = loaded.tokenizer
        # A model's own template says itself where its bos token goes; the named ones begin with
        # it, where the tokenizer is one that wants it.
        named = template.name in NAMED_TEMPLATES
        bos_token = "" if named and not tokenizer.adds_bos else tokenizer.bos_token
        self._renderer = TemplateRenderer(template, bos_token, tokenizer.eos_token)

    def add_user(self, text: str) -> None:
        """Add a message; to one that was stopped before it was answered it is appended, as most
        templates want user and assistant to take turns."""
        if self.messages and self.messages[-1].role == "user":
            text = self.messages.pop().text + "\n\n" + text
        self.messages.append(Message("user", text))

    def drop_last_answer(self) -> bool:
        """Take the last answer back, to be given anew; False where there is none."""
        if self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
            self._keep_last_message()
            return True
        return False

    def drop_last_user(self) -> str:
        """Take the last message of the user back and return its text."""
        self.drop_last_answer()
        if not self.messages or self.messages[-1].role != "user":
            return ""
        text = self.messages.pop().text
        self._keep_last_message()
        return text

    def _keep_last_message(self) -> None:
        """After messages were taken back, the last one left may be one that was dropped."""
        self._dropped = min(self._dropped, max(0, len(self._turns()) - 1))

    def clear(self) -> None:
        """Begin anew, with the same system prompt."""
        self.messages = [message for message in self.messages if message.role == "system"]
        self._dropped = 0

    def close(self) -> None:
        self._renderer.close()

    def answer(self, stop: Flag) -> Iterator[Event]:
        """Answer the last message, as a stream of events; see llama_cpu.events.

        The answer becomes a message, also when it was stopped, unless nothing was generated.
        Raises UserError where the prompt cannot be made or does not fit.
        """
        prompt_ids, dropped = self._prompt_that_fits()
        if dropped > self._dropped:
            newly_dropped, self._dropped = dropped - self._dropped, dropped
            yield TurnsDropped(newly_dropped)
        answer = Message("assistant", "")
        text = ""
        ended = False
        try:
            for event in self._generator.generate(prompt_ids, self._sampler, self._limits, stop):
                if isinstance(event, Token) and event.id not in self._limits.end_ids:
                    answer.token_ids.append(event.id)
                elif isinstance(event, Token):
                    ended = True
                if isinstance(event, (Token, Finished)):
                    text += event.text
                    # Most models begin with a space or a new line, which is not for showing.
                    shown = text.lstrip()
                    event = replace(event, text=shown[len(answer.text) :])
                    answer.text = shown
                yield event
        finally:  # also if the one who listens goes away
            if answer.token_ids or ended:
                answer.token_ids = ids_of_text(self.loaded.tokenizer, answer.token_ids, text)
                self.messages.append(answer)

    def complete(self, text: str, stop: Flag) -> Iterator[Event]:
        """Continue a text without the template, as a stream of events; no message comes of it.

        Raises UserError where the text cannot be encoded or does not fit.
        """
        prompt_ids = self.loaded.tokenizer.encode_prompt(text)
        limits = replace(self._limits, stop_strings=())  # those are the template's
        return self._generator.generate(prompt_ids, self._sampler, limits, stop)

    def _prompt_that_fits(self) -> tuple[list[int], int]:
        """The prompt without the oldest turns, where they and an answer have no room, and how many
        messages that leaves out.

        A quarter of the context (or the answer's greatest length, if less) is kept free, so that
        after turns were dropped, and all that follows was computed again, it is some turns until
        the next time. What cannot be dropped, and is still too long, the generator refuses.
        """
        turns = self._turns()
        system = self.messages[: len(self.messages) - len(turns)]
        room = min(self._limits.max_gen_len, self.context_size // 4)
        dropped = self._dropped
        while True:
            kept = turns[dropped:]
            ids = build_prompt(system + kept, self._renderer, self.loaded.tokenizer)
            next_turn = _index_of_next_user(kept)
            if len(ids) + room <= self.context_size:
                return ids, dropped
            if next_turn is None:  # nothing more to drop; too long, it must not cost the others
                return ids, dropped if len(ids) < self.context_size else self._dropped
            dropped += next_turn

    def _turns(self) -> list[Message]:
        """All messages but the system prompt."""
        return [message for message in self.messages if message.role != "system"]

    @property
    def model_name(self) -> str:
        return self.loaded.plan.name

    @property
    def precision(self) -> str:
        return self.loaded.plan.precision.value

    @property
    def weights_bytes(self) -> int:
        return self.loaded.weights_bytes

    @property
    def kv_cache_bytes(self) -> int:
        return self.loaded.cache.nbytes

    @property
    def kv_cache_used_bytes(self) -> int:
        return len(self.loaded.cache) * self.loaded.cache.bytes_per_token

    @property
    def kv_cache_touched_bytes(self) -> int:
        """What the cache took up when it was fullest: memory is not given back."""
        return self.loaded.cache.most_used * self.loaded.cache.bytes_per_token

    def weights_resident_bytes(self, report: MemoryReport) -> int:
        """What of the weights is in memory now: of mapped ones, at most what the report knows."""
        mapped = self.loaded.mapped_bytes
        return self.weights_bytes - mapped + min(mapped, report.file_backed)

    @property
    def context_used(self) -> int:
        return len(self.loaded.cache)

    @property
    def context_size(self) -> int:
        return self.loaded.cache.max_seq_len

    @property
    def threads(self) -> int:
        return self.loaded.plan.threads


def _index_of_next_user(messages: list[Message]) -> int | None:
    """Index of the second turn's first message; None where there is only one turn."""
    for index, message in enumerate(messages[1:], start=1):
        if message.role == "user":
            return index
    return None
