"""A conversation with a loaded model; what the app, the plain chat and one completion talk to."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, fields, replace
from threading import Event as Flag

from llama_cpu.chat.cache_keeper import CacheKeeper, unwatched
from llama_cpu.chat.context import ModelContext
from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.lens import LensPart, look
from llama_cpu.chat.prompt import Message
from llama_cpu.chat.templates import (
    NAMED_TEMPLATES,
    ChatTemplate,
    TemplateRenderer,
    choose_template,
)
from llama_cpu.chat.thinking import OPENING
from llama_cpu.chat.token_times import is_time
from llama_cpu.errors import UserError
from llama_cpu.generation.detokenizer import ids_of_text, whole_characters
from llama_cpu.generation.events import Event
from llama_cpu.generation.generate import Limits, TextGenerator
from llama_cpu.generation.sampling import Sampler, Sampling
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.history.store import History
from llama_cpu.kv_store.file_format import Progress
from llama_cpu.loading.load import LoadedModel
from llama_cpu.settings.generation_settings import Settings
from llama_cpu.system.memory import MemoryReport

TAG_TOKENS = 16  # at the end of a prompt; enough for an opening <think> tag and a line end


class ChatSession:
    """A conversation's messages and the KV cache that goes with them.

    Between turns the cache is kept: an answer computes only those tokens of its prompt that the
    cache does not begin with, also after a message was edited or another branch was chosen.
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
    ) -> None:
        """``conversation``: None starts one that is kept in memory only, with the system prompt
        ``system``. ``keeper``: keeps the KV caches of conversations on disk.
        """
        self.loaded = loaded
        self._keeper = keeper
        self.conversation = conversation or Conversation(History(None), system=system or "")
        self.conversation.model = loaded.plan.name
        self._context = ModelContext(
            self.conversation, loaded.tokenizer, self.model_name, self.context_size
        )
        self._generator = TextGenerator(
            loaded.model, loaded.cache, loaded.tokenizer, loaded.new_drafter, loaded.longest_draft
        )
        self._sampler = Sampler(sampling)
        self._limits = Limits(max_gen_len, loaded.end_ids, template.stop_strings)
        self._usual_template = template
        self._renderer = self._renderer_of(template)
        self._retired: list[TemplateRenderer] = []  # an answer may still be at them
        self._followed: object = None  # the conversation's settings that are in use
        self._usual = self._settings()
        self.begins_in_thinking = False  # the prompt of the present answer ends in <think>

    def _renderer_of(self, template: ChatTemplate) -> TemplateRenderer:
        tokenizer = self.loaded.tokenizer
        # A model's own template says itself where its bos token goes; the named ones begin with
        # it, where the tokenizer is one that wants it.
        named = template.name in NAMED_TEMPLATES
        bos_token = "" if named and not tokenizer.adds_bos else tokenizer.bos_token
        return TemplateRenderer(template, bos_token, tokenizer.eos_token)

    # Settings

    @property
    def settings(self) -> Settings:
        """How the next answer will be given."""
        self._follow_conversation()
        return self._settings()

    def apply(self, settings: Settings) -> None:
        """Give the answers from the next one on with these settings.

        They become the conversation's settings; ``conversation.keep_settings`` stores them. May be
        called while another thread is at an answer, which ends as it began. Raises UserError where
        the template cannot be read; nothing has changed then.
        """
        self._follow_conversation()
        self._use(settings)
        usual = replace(self._usual, system=self._context.system_prompt()).as_dict()
        own = {name: each for name, each in settings.as_dict().items() if each != usual[name]}
        system = {
            name: each for name, each in self.conversation.settings.items() if name == "system"
        }
        self.conversation.settings = self._followed = {**system, **own}
        self.conversation.system = settings.system

    def _settings(self) -> Settings:
        return Settings(
            self._context.system_prompt(),
            self._renderer.template.asked,
            max_gen_len=self._limits.max_gen_len,
            **asdict(self._sampler.sampling),
        )

    def _follow_conversation(self) -> None:
        """Another conversation may have been opened, with settings of its own; where they are
        damaged, or name a template that is no longer there, the usual ones serve.
        """
        if self.conversation.settings is self._followed:
            return
        self._followed = self.conversation.settings
        try:
            self._use(self._usual.updated(self.conversation.settings))
        except UserError:
            self._use(self._usual)

    def _use(self, settings: Settings) -> None:
        if settings.template != self._renderer.template.asked:
            template = self._usual_template
            if settings.template != template.asked:
                tokenizer = self.loaded.tokenizer
                template = choose_template(settings.template, tokenizer, self.model_name)
            self._retired.append(self._renderer)
            self._renderer = self._renderer_of(template)
        stop_strings = self._renderer.template.stop_strings
        self._limits = Limits(settings.max_gen_len, self.loaded.end_ids, stop_strings)
        names = [field.name for field in fields(Sampling)]
        sampling = Sampling(**{name: getattr(settings, name) for name in names})
        if sampling != self._sampler.sampling:  # else its random numbers go on
            self._sampler = Sampler(sampling)

    @property
    def template_name(self) -> str:
        self._follow_conversation()
        return self._renderer.template.name

    @property
    def template_guessed(self) -> bool:
        return self._renderer.template.guessed

    # Messages and answers

    @property
    def messages(self) -> list[Message]:
        """What the model is told: the system prompt and all turns."""
        return self._context.messages(self.conversation.line)

    def add_user(self, text: str) -> None:
        """Add a message; one that was stopped before it was answered is answered along with it, as
        most templates want user and assistant to take turns.
        """
        self.conversation.add_user(text)

    def close(self) -> None:
        """End the template's process. The conversation is its owner's to close."""
        self._close_retired()
        self._renderer.close()

    def let_go(self) -> None:
        """Free the model's memory. Only what is known of its plan may be asked from now on."""
        self.close()
        del self._generator
        self._keeper = None
        self.loaded = replace(self.loaded, model=None, cache=None, new_drafter=None)  # type: ignore[arg-type]

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    def answer(self, stop: Flag) -> Iterator[Event]:
        """Answer the last message, as a stream of events; see llama_cpu.generation.events.

        The answer is saved as it grows and becomes a message, also when it was stopped, unless
        nothing was generated. Raises UserError where the prompt cannot be made or does not fit.
        """
        sampler, limits = self._begin()
        self.prepare_cache(unwatched, stop)
        prompt_ids = yield from self._prompt(self.conversation.line, [])
        events = self._generator.generate(prompt_ids, sampler, limits, stop)
        yield from self._noted(self.conversation.written(events, limits.end_ids, self._tidy))

    def continue_answer(self, stop: Flag) -> Iterator[Event]:
        """Write on at the last message, an answer that was cut or stopped; as ``answer``.

        The text in the events is what is new.
        """
        sampler, limits = self._begin()
        self.prepare_cache(unwatched, stop)
        answer = self.conversation.line[-1]
        tokenizer = self.loaded.tokenizer
        ids = self._context.ids_of(answer)
        if not ids and answer.text:  # another model's
            ids = tokenizer.encode_message(answer.text)
        prompt_ids = yield from self._prompt(self.conversation.line[:-1], ids)
        # A generator, which begins only after the conversation has found that nobody else writes.
        so_far, begun = whole_characters(tokenizer, ids)
        events = self._generator.generate(prompt_ids, sampler, limits, stop, begun)
        yield from self._noted(
            self.conversation.written_on(events, limits.end_ids, self._tidy, so_far, ids)
        )

    def _prompt(
        self, line: Sequence[StoredMessage], begun: list[int]
    ) -> Generator[Event, None, list[int]]:
        ids = yield from self._context.prompt(line, begun, self._renderer, self._limits.max_gen_len)
        before = ids[: len(ids) - len(begun)]
        end = self.loaded.tokenizer.decode(before[-TAG_TOKENS:])
        self.begins_in_thinking = end.rstrip().endswith(OPENING)
        return ids

    def _noted(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events; the keeper knows whose tokens the cache holds. A prompt that is refused
        has no events, and the cache holds what it held.
        """
        template, has_begun = self._renderer.template, False
        try:
            for event in events:
                if self._keeper and not has_begun:
                    self._keeper.belongs_to(self.conversation, template)
                has_begun = True
                yield event
        finally:
            if self._keeper and has_begun:
                self._keeper.belongs_to(self.conversation, template)

    def _begin(self) -> tuple[Sampler, Limits]:
        """What an answer uses to its end, whatever is applied meanwhile."""
        self._follow_conversation()
        self._close_retired()
        return self._sampler, self._limits

    def branch(self, answer: StoredMessage, token_ids: list[int], seconds: Sequence[float]) -> None:
        """Add an alternative to an answer of the line, which begins with these ids; it is the last
        message then, for ``continue_answer`` to write on.

        Where the last id is an end token, it is complete. ``seconds``: each token's, as far as
        they are known. Raises Gone.
        """
        ends = token_ids[-1] in self._limits.end_ids
        ids = token_ids[:-1] if ends else token_ids
        text = self.loaded.tokenizer.decode(ids).lstrip()
        state = State.COMPLETE if ends else State.STOPPED
        self.conversation.add_answer(self._place(answer), text, ids, seconds, state)

    def look(self, answer: StoredMessage, stop: Flag) -> Iterator[LensPart]:
        """What the model thinks of each token of an answer of the line; see chat.lens.

        An answer of another model is read as its text would be encoded. Nothing is changed.
        Raises UserError where it is longer than the context.
        """
        self._follow_conversation()
        self.prepare_cache(unwatched, stop)
        ids = self._context.ids_of(answer)
        seconds = [each if is_time(each) else None for each in answer.token_seconds]
        if len(seconds) < len(ids):
            seconds = []
        if not ids:
            ids = self.loaded.tokenizer.encode_message(answer.text)
            seconds = []
        before = self.conversation.line[: self._place(answer)]
        prompt_ids = self._context.prompt_before(before, ids, self._renderer)
        loaded = self.loaded
        parts = (loaded.model, loaded.cache, loaded.tokenizer)
        cached = list(loaded.cache.token_ids)
        try:
            yield from look(*parts, prompt_ids, ids, seconds, stop, loaded.end_ids)
        finally:
            # What was put back may be of a message that was deleted since: it stays that one's.
            if self._keeper and loaded.cache.token_ids != cached:
                self._keeper.belongs_to(self.conversation, self._renderer.template)

    def is_own(self, answer: StoredMessage) -> bool:
        """Whether the loaded model generated it, so that its tokens are known."""
        return bool(self._context.ids_of(answer))

    def _place(self, message: StoredMessage) -> int:
        return [each.id for each in self.conversation.line].index(message.id)

    def _tidy(self, ids: list[int], text: str) -> list[int]:
        return ids_of_text(self.loaded.tokenizer, ids, text)

    # The KV cache on the disk. In the model's thread, as answers are.

    def prepare_cache(self, on_progress: Progress, stop: Flag) -> None:
        """Another conversation is shown: have what is kept of its KV cache, after keeping that of
        the one before. An answer does it, too, where it was not done.

        ``on_progress(done, total)`` gets bytes. Setting ``stop`` ends it soon; then that much is
        computed again.
        """
        if self._keeper:
            self._follow_conversation()
            self._keeper.turn_to(self.conversation, self._renderer.template, on_progress, stop)

    def keep_cache(self, on_progress: Progress, stop: Flag) -> None:
        """Keep the KV cache on the disk, where that is wanted, before the program ends."""
        if self._keeper:
            self._keeper.keep(on_progress, stop)

    @property
    def has_unkept_cache(self) -> bool:
        """Whether ``keep_cache`` has something to do."""
        return self._keeper is not None and self._keeper.has_unkept

    def complete(self, text: str, stop: Flag) -> Iterator[Event]:
        """Continue a text without the template, as a stream of events; no message comes of it.

        Raises UserError where the text cannot be encoded or does not fit.
        """
        prompt_ids = self.loaded.tokenizer.encode_prompt(text)
        limits = replace(self._limits, stop_strings=())  # those are the template's
        return self._generator.generate(prompt_ids, self._sampler, limits, stop)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in a message. Any thread may call it, also during an answer."""
        return len(self.loaded.tokenizer.encode_message(text))

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
        """Weights that are read in place from the files, which the system may drop."""
        return self.loaded.mapped_bytes

    @property
    def freeable_bytes(self) -> int:
        """What the system has more when the model is let go; mapped weights it may take anyway."""
        return self.weights_bytes - self.loaded.mapped_bytes + self.kv_cache_touched_bytes

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
