"""What controllers may ask of the screen and its parts.

The controllers know these protocols only; the chat screen and its widgets satisfy them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from textual.message import Message
from textual.worker import Worker

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session_protocol import ModelPlan, OpenSession, Session
from llama_cpu.history.rows import StoredMessage
from llama_cpu.tui.actions import Action
from llama_cpu.tui.attachments import Attachments
from llama_cpu.tui.input_history import InputHistory
from llama_cpu.tui.presets import Presets


@dataclass(frozen=True)
class Branch:
    """An alternative chosen in the token lens, from which the answer continues."""

    answer: StoredMessage
    token_ids: list[int]  # of the answer, up to and including the chosen alternative
    seconds: list[float]  # the time of each token, or empty


@dataclass
class ScreenState:
    """What one chat screen passes to the chat screen of the next model."""

    draft: str
    history: InputHistory
    attachments: Attachments
    notice: str = ""


class InputView(Protocol):
    """The text area in which the user writes a message."""

    @property
    def text(self) -> str: ...

    def take(self) -> str:
        """Empty the box and return the message."""
        ...

    def lay_aside(self) -> str:
        """Empty the box and return its text as it was typed."""
        ...

    def put_back(self, text: str) -> None:
        """Put a message before whatever is in the box."""
        ...

    def put_back_draft(self, text: str) -> None:
        """Put text that ``lay_aside`` returned before whatever is in the box."""
        ...

    def say(self, hint: str) -> None:
        """Show a hint on the edge of the box."""
        ...

    def unsay(self, hint: str) -> None:
        """Remove the hint if it is still shown."""
        ...

    def entitle(self, title: str) -> None: ...

    def focus(self) -> object: ...


class AnswerView(Protocol):
    """An answer that is being written."""

    def say(self, doing: str) -> None:
        """Show what the model is doing; empty for nothing."""
        ...

    def add_notice_above(self, text: str) -> None: ...

    async def append(self, text: str) -> None: ...

    async def finish(self) -> None: ...

    def keep(self, message: StoredMessage) -> None:
        """Link the answer to its stored message."""
        ...

    def remove(self) -> Awaitable[None]: ...


class MessagesView(Protocol):
    """The messages of the conversation."""

    @property
    def chosen(self) -> StoredMessage | None:
        """The message or answer that has the focus."""
        ...

    async def show(self, conversation: Conversation) -> None: ...

    def add_notice(self, text: str, kind: str = "note") -> None: ...

    async def remove_notices(self) -> None: ...

    async def begin_answer(
        self, speaker: str, text: str | None = None, begins_in_thinking: Callable[[], bool] = ...
    ) -> AnswerView: ...

    def show_message(self, message: int) -> None: ...

    def choose(self, message: int) -> None: ...

    async def choose_next(self, step: int) -> bool:
        """Choose another message; False if there is none in that direction."""
        ...


class ChatView(Protocol):
    """The chat screen."""

    @property
    def conversation(self) -> Conversation: ...

    @property
    def session(self) -> Session:
        """The conversation with the loaded model. Raises UserError if none is loaded."""
        ...

    @property
    def has_model(self) -> bool:
        """Whether a model is loaded."""
        ...

    @property
    def is_loading(self) -> bool:
        """Whether the model of the start is being loaded."""
        ...

    @property
    def presets(self) -> Presets: ...

    @property
    def attachments(self) -> Attachments: ...

    @property
    def input(self) -> InputView: ...

    @property
    def conversation_view(self) -> MessagesView: ...

    @property
    def is_active(self) -> bool:
        """Whether no other screen lies over this one."""
        ...

    @property
    def is_attached(self) -> bool: ...

    @property
    def has_room_for_panels(self) -> bool: ...

    def run_worker(self, work: Awaitable[None], *, group: str) -> Worker[None]: ...

    def post_message(self, message: Message) -> bool: ...

    def refresh_bindings(self) -> None: ...

    def conversation_changed(self) -> None: ...

    def settings_changed(self) -> None: ...

    def leave_sidebar(self) -> None: ...

    def show_timings(self) -> None: ...

    def show_paging(self, sign: str) -> None: ...

    def show_panels(self, shown: bool) -> None: ...

    def show_figures(self) -> None: ...

    def show_lens(
        self, answers: Sequence[StoredMessage], place: int, on_branch: Callable[[Branch], None]
    ) -> None: ...

    def tell(self, text: str, kind: str = "note") -> None:
        """Show a text above the prompt, in place of the one before; an empty one for none."""
        ...

    def warn(self, sentence: str, seconds: float = 5) -> None:
        """Show a sentence over whatever screen is on top."""
        ...

    def copy_to_clipboard(self, text: str) -> None: ...

    async def confirm(self, question: str, yes: str, no: str = "Keep") -> bool: ...

    async def ask_for_line(self, question: str, text: str) -> str | None:
        """Ask for a line of text; None if the user cancelled."""
        ...

    async def perform(self, action: Action) -> None: ...


class ReplaceableChat(ChatView, Protocol):
    """The chat screen, as the switch to another model sees it."""

    async def stop_answering(self) -> None: ...

    def put_away(self) -> ScreenState:
        """Empty the input and return what the next chat screen needs."""
        ...

    def restore(self, state: ScreenState) -> None: ...

    def retire(self) -> None:
        """Stop measuring, as the model is about to be freed."""
        ...


class AppView(Protocol):
    """The app, as the switch to another model sees it."""

    plan: ModelPlan | None
    session: Session | None

    @property
    def is_leaving(self) -> bool: ...

    async def uncover(self) -> None:
        """Close all screens above the chat screen, or above the loading screen in its place."""
        ...

    async def show_loading(
        self, plan: ModelPlan, open_session: OpenSession, in_place: bool
    ) -> None: ...

    async def show_chat(self, state: ScreenState) -> None: ...
