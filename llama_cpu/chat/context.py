"""Chooses the turns of a conversation that fit the model's context, and builds the prompt."""

from collections.abc import Generator, Sequence
from itertools import chain

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.prompt import Message, build_prompt
from llama_cpu.chat.templates import TemplateRenderer
from llama_cpu.generation.detokenizer import ids_of_text
from llama_cpu.generation.events import Event, TurnsDropped
from llama_cpu.history.rows import StoredMessage
from llama_cpu.tokenization import Tokenizer

Turn = list[StoredMessage]  # one or several user messages, then the answer
_TOKENS_AROUND = 5  # roughly what a template adds to each message


class ModelContext:
    """The part of a conversation that fits the model's context."""

    def __init__(
        self, conversation: Conversation, tokenizer: Tokenizer, model: str, context: int
    ) -> None:
        """``context``: the context length in tokens."""
        self._conversation = conversation
        self._tokenizer = tokenizer
        self._model = model
        self._context = context
        self._first_kept: tuple[int, float] | None = None  # the turns before it no longer fit
        self._known_ids: dict[int, tuple[StoredMessage, list[int]]] = {}
        self._known_counts: dict[int, tuple[StoredMessage, int]] = {}

    def prompt(
        self,
        line: Sequence[StoredMessage],
        begun: list[int],
        renderer: TemplateRenderer,
        longest_answer: int,
    ) -> Generator[Event, None, list[int]]:
        """Return the prompt's ids, without the oldest turns if they do not fit.

        Yields a TurnsDropped event for turns that are left out for the first time.

        ``begun``: the ids of an answer to be continued, which end the prompt.

        After turns are dropped, the rest of the prompt must be computed again. To avoid this at
        every turn, a quarter of the context is kept free, or the maximum length of an answer if
        that is less. The generator refuses a prompt that is still too long.
        """
        turns = _turns(line)
        before = self._already_dropped(turns)
        room = min(longest_answer, self._context // 4)
        ids, dropped = self._fitting(turns, begun, before, room, renderer)
        if len(ids) >= self._context:  # the generator refuses it, so drop nothing
            return ids
        if dropped > before:
            self._first_kept = _mark(turns[dropped])
            yield TurnsDropped(sum(map(len, turns[before:dropped])))
        return ids

    def prompt_before(
        self, line: Sequence[StoredMessage], answer: list[int], renderer: TemplateRenderer
    ) -> list[int]:
        """Return the prompt that comes before an answer with these ids."""
        turns = _turns(line)
        # The last token is not processed, so the ids may exceed the context by one.
        whole, _ = self._fitting(turns, answer, self._already_dropped(turns), -1, renderer)
        return whole[: len(whole) - len(answer)]

    def _fitting(
        self,
        turns: list[Turn],
        begun: list[int],
        before: int,
        room: int,
        renderer: TemplateRenderer,
    ) -> tuple[list[int], int]:
        """Return the prompt with the begun answer, and the number of dropped turns.

        At least ``before`` turns are dropped, and enough to leave room for ``room`` tokens.
        """

        def without(dropped: int) -> list[int]:
            told = self._to_tell(turns[dropped:])
            return build_prompt(told, renderer, self._tokenizer) + begun

        def is_too_long(ids: list[int]) -> bool:
            return len(ids) + room > self._context

        last = max(0, len(turns) - 1)
        dropped = max(before, self._about_to_drop(turns, self._context - room - len(begun)))
        ids = without(dropped)
        while dropped < last and is_too_long(ids):
            dropped += 1
            ids = without(dropped)
        while dropped > before and not is_too_long(longer := without(dropped - 1)):
            dropped -= 1
            ids = longer
        return ids, dropped

    def _about_to_drop(self, turns: list[Turn], room: int) -> int:
        """Estimate how many turns must be dropped for the others to fit.

        Only the turns that fit are encoded, one message at a time: the tokenizers library blocks
        all other threads meanwhile, and the screen would freeze on a long conversation.
        """
        for index in reversed(range(len(turns))):
            room -= sum(self._about_tokens(message) for message in turns[index])
            if room < 0:
                return min(index + 1, len(turns) - 1)
        return 0

    def _about_tokens(self, message: StoredMessage) -> int:
        known, count = self._known_counts.get(message.id, (None, 0))
        if known is not message:
            count = len(self.ids_of(message)) or len(self._tokenizer.encode_message(message.text))
            self._known_counts[message.id] = message, count
        return count + _TOKENS_AROUND

    def _already_dropped(self, turns: list[Turn]) -> int:
        """Return how many turns of this line were dropped last time."""
        marks = [_mark(turn) for turn in turns]
        return marks.index(self._first_kept) if self._first_kept in marks else 0

    def messages(self, line: Sequence[StoredMessage]) -> list[Message]:
        """The system prompt and all turns."""
        return self._to_tell(_turns(line))

    def _to_tell(self, turns: list[Turn]) -> list[Message]:
        system = self.system_prompt()
        told = [Message("system", system)] if system else []
        for stored in chain.from_iterable(turns):
            if stored.role == "user" and told and told[-1].role == "user":
                told[-1] = Message("user", f"{told[-1].text}\n\n{stored.text}")
            else:
                told.append(Message(stored.role, stored.text, self.ids_of(stored)))
        return told

    def system_prompt(self) -> str:
        """The system prompt of the conversation.

        It is in the settings or, in an imported conversation, a message; else it is the default.
        """
        if "system" in self._conversation.settings:
            return self._conversation.system
        own = [message.text for message in self._conversation.line if message.role == "system"]
        return own[-1] if own else self._conversation.system

    def ids_of(self, message: StoredMessage) -> list[int]:
        """The ids that the loaded model generated for this answer; [] if another model did."""
        known, ids = self._known_ids.get(message.id, (None, []))
        if known is not message:
            ids = own_ids(message, self._model, self._tokenizer)
            self._known_ids[message.id] = message, ids
        return ids


def own_ids(message: StoredMessage, model: str, tokenizer: Tokenizer) -> list[int]:
    """The token ids of an answer's text; [] if they are not ids of this model for this text."""
    ids = list(message.token_ids)
    if message.model != model or not all(0 <= id < tokenizer.n_tokens for id in ids):
        return []
    text = tokenizer.decode(ids)
    shown = text.lstrip()
    if not shown.startswith(message.text):
        return []
    return ids_of_text(tokenizer, ids, text[: len(text) - len(shown)] + message.text)


def _turns(line: Sequence[StoredMessage]) -> list[Turn]:
    turns: list[Turn] = []
    before = ""
    for message in line:
        if message.role == "system":
            continue
        if not turns or (message.role == "user" and before != "user"):
            turns.append([])
        turns[-1].append(message)
        before = message.role
    return turns


def _mark(turn: Turn) -> tuple[int, float]:
    """Identify a turn. Ids alone change when a conversation moves between disk and memory."""
    return turn[0].id, turn[0].created
