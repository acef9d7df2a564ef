"""A conversation with a loaded model: the interface of the app and of the command line."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from threading import Event as Flag

from llama_cpu.chat.answer_settings import AnswerSettings
from llama_cpu.chat.context import ModelContext
from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.lens import LensPart, look
from llama_cpu.chat.prompt import Message
from llama_cpu.chat.templates import ChatTemplate
from llama_cpu.chat.thinking import OPENING
from llama_cpu.chat.token_times import is_time
from llama_cpu.errors import UserError
from llama_cpu.generation.detokenizer import ids_of_text, whole_characters
from llama_cpu.generation.events import Event
from llama_cpu.generation.generate import TextGenerator
from llama_cpu.generation.sampling import Sampling
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.history.store import History
from llama_cpu.kv_store.file_format import Progress
from llama_cpu.kv_store.keeper import CacheKeeper, ignore_progress
from llama_cpu.loading.load import LoadedModel
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.system.memory import MemoryReport

TAG_TOKENS = 16  # at the end of a prompt; enough for an opening <think> tag and a line end

FULL = (
    "The context is full, so that this answer cannot go on; begin a new conversation, or start "
    "with a greater --max_seq_len where the model allows it."
)


class ChatSession:
    """A conversation, a loaded model and its KV cache.

    The cache persists between turns: an answer computes only the tokens of its prompt that differ
    from the beginning of the cache, also after a message was edited or another branch was chosen.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        template: ChatTemplate,
        sampling: Sampling,
        max_gen_len: int,
        system: str | None = None,
        conversation: Conversation | None = None,
        keeper: CacheKeeper | None = None,
        model_settings: Settings | None = None,
    ) -> None:
        """Prepare a session.

        ``conversation``: None for a new one in memory, with the system prompt ``system``.
        ``keeper``: saves KV caches to disk; None if they are not saved.
        ``model_settings``: those that the model recommends; None for the program's defaults.
        """
        self.loaded = loaded
        self._keeper = keeper
        self.model_settings = model_settings or Settings()
        self.conversation = conversation or Conversation(History(None), system=system or "")
        self.conversation.model = loaded.plan.name
        self._context = ModelContext(
            self.conversation, loaded.tokenizer, self.model_name, self.context_size
        )
        self._generator = TextGenerator(
            loaded.model, loaded.cache, loaded.tokenizer, loaded.new_drafter, loaded.longest_draft
        )
        self._settings = AnswerSettings(
            loaded, self.conversation, self._context, template, sampling, max_gen_len
        )
        self.begins_in_thinking = False  # the prompt of the present answer ends in <think>

    # Settings

    @property
    def settings(self) -> Settings:
        """The settings for the next answer."""
        return self._settings.current()

    @property
    def default_settings(self) -> Settings:
        """The settings of a new conversation: those of the options, else of the model."""
        return self._settings.defaults

    def apply(self, settings: Settings) -> None:
        """Use these settings from the next answer on.

        They become the conversation's settings; ``conversation.save_settings`` stores them. May be
        called while another thread generates an answer, which keeps the settings it began with.
        Raises UserError if the template cannot be read; nothing has changed then.
        """
        self._settings.apply(settings)

    @property
    def template_name(self) -> str:
        self._settings.follow_conversation()
        return self._settings.renderer.template.name

    @property
    def template_guessed(self) -> bool:
        return self._settings.renderer.template.guessed

    # Messages and answers

    @property
    def messages(self) -> list[Message]:
        """The messages for the model: the system prompt and all turns."""
        return self._context.messages(self.conversation.line)

    def add_user(self, text: str) -> None:
        """Add a user message to the conversation.

        If the message before it was never answered, both are sent to the model as one, because
        most templates require that user and assistant alternate.
        """
        self.conversation.add_user(text)

    def close(self) -> None:
        """End the template's process. The caller remains responsible for the conversation."""
        self._settings.close()

    def let_go(self) -> None:
        """Free the model's memory. Afterwards only the plan's properties may be used."""
        self.close()
        del self._generator
        self._keeper = None
        self.loaded = replace(self.loaded, model=None, cache=None, new_drafter=None)  # type: ignore[arg-type]  # must not be used from here on

    def answer(self, stop: Flag) -> Iterator[Event]:
        """Answer the last message, as a stream of events; see llama_cpu.generation.events.

        The answer is saved while it grows and becomes a message, even if it is stopped, unless no
        token was generated. Raises UserError if the prompt cannot be built or does not fit.
        """
        sampler, limits = self._settings.begin_answer()
        self.prepare_cache(ignore_progress, stop)
        prompt_ids = yield from self._prompt(self.conversation.line, [])
        events = self._generator.generate(prompt_ids, sampler, limits, stop)
        yield from self._assigning_cache(
            self.conversation.autosave_answer(events, limits.end_ids, self._ids_of_text)
        )

    def continue_answer(self, stop: Flag) -> Iterator[Event]:
        """Continue the last message, an answer that was cut or stopped; otherwise as ``answer``.

        The events contain only the new text.
        """
        sampler, limits = self._settings.begin_answer()
        self.prepare_cache(ignore_progress, stop)
        answer = self.conversation.line[-1]
        tokenizer = self.loaded.tokenizer
        ids = self._context.ids_of(answer)
        if not ids and answer.text:  # another model wrote it
            ids = tokenizer.encode_message(answer.text)
        prompt_ids = yield from self._prompt(self.conversation.line[:-1], ids)
        if len(prompt_ids) >= self.context_size:
            raise UserError(FULL)
        # The generator starts only after the conversation has made sure that no other process is
        # writing the same answer.
        so_far, begun = whole_characters(tokenizer, ids)
        events = self._generator.generate(prompt_ids, sampler, limits, stop, begun)
        yield from self._assigning_cache(
            self.conversation.autosave_continuation(
                events, limits.end_ids, self._ids_of_text, so_far, ids
            )
        )

    def _prompt(
        self, line: Sequence[StoredMessage], begun: list[int]
    ) -> Generator[Event, None, list[int]]:
        settings = self._settings
        ids = yield from self._context.prompt(
            line, begun, settings.renderer, settings.limits.max_gen_len
        )
        before = ids[: len(ids) - len(begun)]
        end = self.loaded.tokenizer.decode(before[-TAG_TOKENS:])
        self.begins_in_thinking = end.rstrip().endswith(OPENING)
        return ids

    def _assigning_cache(self, events: Iterator[Event]) -> Iterator[Event]:
        """Pass on the events, and tell the keeper to which message the cached tokens belong.

        A refused prompt yields no events, and the cache remains as it was.
        """
        template, has_begun = self._template_label(), False
        try:
            for event in events:
                if not has_begun:
                    self._assign_cache(template)
                has_begun = True
                yield event
        finally:
            if has_begun:
                self._assign_cache(template)

    def branch(self, answer: StoredMessage, token_ids: list[int], seconds: Sequence[float]) -> None:
        """Add an alternative to an answer, which begins with these token ids.

        The alternative becomes the last message, for ``continue_answer`` to continue; if the last
        id is an end token, it is complete. ``seconds``: the time of each token, as far as known.
        Raises Gone.
        """
        ends = token_ids[-1] in self._settings.limits.end_ids
        ids = token_ids[:-1] if ends else token_ids
        text = self.loaded.tokenizer.decode(ids).lstrip()
        state = State.COMPLETE if ends else State.STOPPED
        self.conversation.add_answer(self._place(answer), text, ids, seconds, state)

    def look(self, answer: StoredMessage, stop: Flag) -> Iterator[LensPart]:
        """Compute the probabilities of an answer's tokens and of their alternatives; see chat.lens.

        An answer of another model is encoded from its text. The conversation is not changed.
        Raises UserError if the answer and its prompt exceed the context.
        """
        self._settings.follow_conversation()
        self.prepare_cache(ignore_progress, stop)
        ids = self._context.ids_of(answer)
        seconds = [each if is_time(each) else None for each in answer.token_seconds]
        if len(seconds) < len(ids):
            seconds = []
        if not ids:
            ids = self.loaded.tokenizer.encode_message(answer.text)
            seconds = []
        before = self.conversation.line[: self._place(answer)]
        prompt_ids = self._context.prompt_before(before, ids, self._settings.renderer)
        loaded = self.loaded
        parts = (loaded.model, loaded.cache, loaded.tokenizer)
        cached = list(loaded.cache.token_ids)
        try:
            yield from look(*parts, prompt_ids, ids, seconds, stop, loaded.end_ids)
        finally:
            # Restored tokens may belong to a message that was deleted since. They stay assigned
            # to it, so that they are not saved for this one.
            if loaded.cache.token_ids != cached:
                self._assign_cache(self._template_label())

    def is_own(self, answer: StoredMessage) -> bool:
        """Whether the loaded model generated this answer, so that its token ids are known."""
        return bool(self._context.ids_of(answer))

    def _place(self, message: StoredMessage) -> int:
        return [each.id for each in self.conversation.line].index(message.id)

    def _ids_of_text(self, ids: list[int], text: str) -> list[int]:
        return ids_of_text(self.loaded.tokenizer, ids, text)

    def complete(self, text: str, stop: Flag) -> Iterator[Event]:
        """Continue a text without the template, as a stream of events; no message is stored.

        Raises UserError if the text cannot be encoded or does not fit.
        """
        prompt_ids = self.loaded.tokenizer.encode_prompt(text)
        settings = self._settings
        limits = replace(settings.limits, stop_strings=())  # they belong to the template
        return self._generator.generate(prompt_ids, settings.sampler, limits, stop)

    def count_tokens(self, text: str) -> int:
        """Number of tokens in a message's text. May be called from any thread at any time."""
        return len(self.loaded.tokenizer.encode_message(text))

    # The KV cache on disk. These run in the model's thread, like answers.

    def prepare_cache(self, on_progress: Progress, stop: Flag) -> None:
        """After another conversation was opened: save the previous one's KV cache and load its own.

        An answer does this itself if it was not done before. ``on_progress(done, total)`` receives
        bytes. Setting ``stop`` ends it soon; the tokens are then computed again.
        """
        if self._keeper:
            self._settings.follow_conversation()
            conversation_id = self.conversation.stored_id
            self._keeper.switch_to(conversation_id, self._template_label(), on_progress, stop)

    def save_cache(self, on_progress: Progress, stop: Flag) -> None:
        """Save the KV cache to disk, if caches are saved; to be called before the program ends."""
        if self._keeper:
            self._keeper.save(on_progress, stop)

    @property
    def has_unsaved_cache(self) -> bool:
        """Whether ``save_cache`` would write a file."""
        return self._keeper is not None and self._keeper.has_unsaved

    def _assign_cache(self, template: str) -> None:
        if self._keeper:
            line = self.conversation.line
            message_id = line[-1].id if line else None
            self._keeper.assign(self.conversation.stored_id, message_id, template)

    def _template_label(self) -> str:
        """Identifies the template; KV caches made with another template are not reused."""
        template = self._settings.renderer.template
        source = hashlib.sha256(template.source.encode(errors="surrogatepass")).hexdigest()
        return f"{template.name} {source}"

    # Facts about the model and its memory

    @property
    def model_name(self) -> str:
        return self.loaded.plan.name

    @property
    def precision(self) -> str:
        return self.loaded.plan.precision.label

    @property
    def weights_bytes(self) -> int:
        return self.loaded.weights_bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of memory-mapped weights, which the operating system may evict."""
        return self.loaded.mapped_bytes

    @property
    def freeable_bytes(self) -> int:
        """Bytes that become available when the model is let go, mapped weights not included."""
        return self.weights_bytes - self.loaded.mapped_bytes + self.kv_cache_touched_bytes

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes of a full KV cache."""
        return self.loaded.cache.nbytes

    @property
    def kv_cache_type(self) -> str:
        """Name of the type of the KV cache, such as ``bfloat16``."""
        return self.loaded.cache.type_name

    @property
    def kv_cache_used_bytes(self) -> int:
        """Bytes of the tokens that are in the KV cache now."""
        return len(self.loaded.cache) * self.loaded.cache.bytes_per_token

    @property
    def kv_cache_touched_bytes(self) -> int:
        """Bytes that the KV cache occupies: its maximum so far, as memory is not given back."""
        return self.loaded.cache.most_used * self.loaded.cache.bytes_per_token

    def weights_resident_bytes(self, report: MemoryReport) -> int:
        """Bytes of weights in physical memory; for mapped weights, an upper bound."""
        mapped = self.loaded.mapped_bytes
        return self.weights_bytes - mapped + min(mapped, report.file_backed)

    @property
    def context_used(self) -> int:
        """Number of tokens in the KV cache."""
        return len(self.loaded.cache)

    @property
    def context_size(self) -> int:
        """Number of tokens that the KV cache can hold."""
        return self.loaded.cache.max_seq_len

    @property
    def threads(self) -> int:
        return self.loaded.plan.threads
