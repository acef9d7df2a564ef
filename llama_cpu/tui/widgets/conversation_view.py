"""The scrolling column of messages."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.geometry import Size
from textual.reactive import Reactive
from textual.widget import Widget
from textual.widgets import Static

from llama_cpu.chat.conversation import Conversation
from llama_cpu.history.rows import StoredMessage
from llama_cpu.tui.occurrences import Search
from llama_cpu.tui.widgets.message_views import Answer, FinishedAnswer, Notice, UserMessage

SHOWN_AT_FIRST = 20  # messages of a conversation that is opened; they fill some screens
MORE = 40  # messages that are added when the user scrolls up to the first one
MOST = 80  # more messages are removed at the top: the cost of each typed letter grows with them

MessageWidget = UserMessage | Answer | FinishedAnswer


class Messages(Vertical):
    """Contains the messages. It is at least as high as the view, so that they begin at the top."""

    virtual_size = Reactive(Size(0, 0))  # as in message_views.Passage


class Earlier(Static):
    """Says how many messages there are above the first one that is shown."""


class ConversationView(VerticalScroll, can_focus=False):
    """Shows the messages of a conversation, and follows its end until the user scrolls up.

    In a long conversation, only the last messages have widgets. Earlier ones are added when the
    user scrolls to the top.
    """

    virtual_size = Reactive(Size(0, 0))  # as in message_views.Passage

    def __init__(self) -> None:
        super().__init__()
        self._conversation: Conversation | None = None
        self._line: list[StoredMessage] = []
        self._first = 0  # index of the first message that has a widget
        self._is_at_rest = True  # no messages are being added or removed
        self._shows_thinking = False
        self._search = Search("")
        self._found_in: int | None = None  # id of the message with the present occurrence

    def compose(self) -> ComposeResult:
        yield Messages(id="messages")

    def on_mount(self) -> None:
        """Follow the end from the start."""
        self.anchor()

    @property
    def messages(self) -> Messages:
        """The container of the messages."""
        return self.query_one(Messages)

    async def show(self, conversation: Conversation) -> None:
        """Show the line of a conversation.

        Widgets of messages that have not changed stay, and so do the notices between them. The
        notice of the demo model goes once there is a message.
        """
        self._conversation = conversation
        self._line = [message for message in conversation.line if message.role != "system"]
        self._is_at_rest = False
        with self.app.batch_update():
            self._renew()
            kept = self._kept()
            if not kept:
                self._first = max(0, len(self._line) - SHOWN_AT_FIRST)
                self.anchor()
            if len(kept) < len(self._shown()):
                await self._remove_after(kept[-1] if kept else None)
            for widget in kept:
                widget.put_at(self._place(widget.message))
            new = self._line[self._first + len(kept) :]
            await self.messages.mount_all([self._widget(message) for message in new])
            if self._line:
                await self.messages.query(".demo").remove()
            await self._trim()
            await self._count_earlier()
        self.call_after_refresh(self._rest)

    def add_notice(self, text: str, kind: str = "note") -> None:
        """Show a sentence from the program; ``kind`` as in Notice."""
        self.messages.mount(Notice(text, kind))

    async def remove_notices(self) -> None:
        """Remove the sentences from the program, except that about the demo model."""
        await self._remove(each for each in self.query(Notice) if not each.has_class("demo"))

    async def begin_answer(
        self,
        speaker: str,
        text: str | None = None,
        begins_in_thinking: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Add an answer that can grow; with ``text``, it takes the place of the last one."""
        if text:  # its tags tell
            begins_in_thinking = bool
        answer = Answer(speaker, "", self._shows_thinking, begins_in_thinking)
        with self.app.batch_update():
            if text is not None:
                shown = self._shown()
                answer.place = shown[-1].place
                await self._remove_after(shown[-2] if len(shown) > 1 else None)
            await self.messages.mount(answer)
            if text:
                await answer.append(text)
        self.anchor()
        return answer

    async def show_earlier(self) -> None:
        """Add messages above the first one, without moving what is on the screen."""
        if not self._first or not self._is_at_rest:
            return
        self._is_at_rest = False
        height, old = self.messages.size.height, self._shown()[0]
        first = max(0, self._first - MORE)
        new = [self._widget(message) for message in self._line[first : self._first]]
        self._first = first
        with self.app.batch_update():
            await self.messages.mount_all(new, before=old)
            await self._count_earlier()

        def stay() -> None:
            grown = self.messages.size.height - height
            self.scroll_to(y=self.scroll_y + grown, animate=False, immediate=True)
            self._rest()

        self.call_after_refresh(stay)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if new_value <= 0 < self.max_scroll_y and self._first and self._is_at_rest:
            self.call_later(self.show_earlier)

    @property
    def line(self) -> Sequence[StoredMessage]:
        """The messages of the conversation, also those without widgets."""
        return self._line

    def scroll_pages(self, pages: int) -> None:
        """Scroll one page up (-1) or down (1)."""
        scroll = self.scroll_page_up if pages < 0 else self.scroll_page_down
        scroll(animate=False)

    def toggle_thinking(self) -> None:
        """Fold or unfold the thinking of all answers."""
        self._shows_thinking = not self._shows_thinking
        for widget in self._shown():
            if not isinstance(widget, UserMessage):
                widget.show_thinking(self._shows_thinking)

    # Searching

    def find(self, search: Search, message: int | None = None) -> None:
        """Mark what is searched in all messages, its present occurrence in ``message``.

        Empty words mark nothing.
        """
        self._search, self._found_in = search, message
        for widget in self._shown():
            self._find_in(widget)

    def _find_in(self, widget: MessageWidget) -> None:
        if widget.message is None:  # it is still being written
            return
        is_present = widget.message.id == self._found_in
        search = self._search if is_present else Search(self._search.words)
        widget.find(search if search.words else None)

    async def reveal(self, message: int) -> MessageWidget | None:
        """Scroll to the present occurrence, adding earlier messages until its message is shown.

        Returns the message's widget; None if the line has no such message.
        """
        while not (found := self._widget_of(message)):
            if not self._first:
                return None
            await self.show_earlier()
            await asyncio.sleep(0.01)  # until the new widgets are laid out
        self.release_anchor()
        self.call_after_refresh(self._scroll_to_found, found)
        return found

    def _scroll_to_found(self, widget: MessageWidget) -> None:
        place = widget.found_at()
        if place is None:
            self.scroll_to_widget(widget, top=True, animate=False)
            return
        part, row = place
        y = part.content_region.y - self.content_region.y + self.scroll_y + row
        shown = self.scroll_y <= y < self.scroll_y + self.content_size.height
        if not shown:
            self.scroll_to(y=max(0, y - self.content_size.height // 3), animate=False)

    # The chosen message

    @property
    def chosen(self) -> StoredMessage | None:
        """The message or answer that has the focus."""
        widget = self._chosen()
        return widget.message if widget else None

    def choose(self, message: int) -> None:
        """Move the focus to a message, if it is shown."""
        if widget := self._widget_of(message):
            widget.choose()

    async def choose_next(self, step: int) -> bool:
        """Choose the message before (-1) or after (1) the chosen one.

        Returns False after the last message.
        """
        chosen, shown = self._chosen(), self._choosable()
        if chosen and chosen is shown[0] and step < 0:
            await self.show_earlier()
            shown = self._choosable()
        place = (shown.index(chosen) if chosen in shown else len(shown)) + step
        if not shown or place >= len(shown):
            return False
        shown[max(0, place)].choose()
        return True

    def _chosen(self) -> MessageWidget | None:
        focused = self.screen.focused
        return focused if isinstance(focused, MessageWidget) else None

    def _choosable(self) -> list[MessageWidget]:
        return [widget for widget in self._shown() if widget.message]

    # Scrolling to a message

    def show_message(self, message: int) -> None:
        """Scroll to the beginning of a message, if it is shown."""
        if widget := self._widget_of(message):
            self.release_anchor()
            self.call_after_refresh(self.scroll_to_widget, widget, top=True, animate=False)

    def _widget_of(self, message: int) -> MessageWidget | None:
        shown = (each for each in self._shown() if each.message and each.message.id == message)
        return next(shown, None)

    def _rest(self) -> None:
        self._is_at_rest = True

    def _shown(self) -> list[MessageWidget]:
        children = self.messages.children
        return [child for child in children if isinstance(child, MessageWidget)]

    def _renew(self) -> None:
        """Update answers that another window has continued or ended, in their places."""
        for widget, message in zip(self._shown(), self._line[self._first :], strict=False):
            if not isinstance(widget, FinishedAnswer) or widget.message.id != message.id:
                continue
            if not _is_same(widget.message, message):
                widget.renew(message)

    def _kept(self) -> list[MessageWidget]:
        """Return the widgets that precede the first changed message."""
        kept = []
        for widget, message in zip(self._shown(), self._line[self._first :], strict=False):
            if widget.message is None or not _is_same(widget.message, message):
                break
            kept.append(widget)
        return kept

    def _widget(self, message: StoredMessage) -> MessageWidget:
        place = self._place(message)
        widget: MessageWidget
        if message.role == "user":
            widget = UserMessage(message, place)
        else:
            widget = FinishedAnswer(message, place, self._shows_thinking)
        if self._search.words:
            self._find_in(widget)
        return widget

    def _place(self, message: StoredMessage | None) -> str:
        if not message or not self._conversation:
            return ""
        ids = self._conversation.alternatives(message.id)
        return f"‹ {ids.index(message.id) + 1}/{len(ids)} ›" if len(ids) > 1 else ""

    async def _remove_after(self, last: MessageWidget | None) -> None:
        """Remove everything below a widget; None: everything but the demo model's notice."""
        children = list(self.messages.children)
        rest = children[children.index(last) + 1 :] if last else children
        await self._remove(widget for widget in rest if not widget.has_class("demo"))

    async def _trim(self) -> None:
        shown = self._shown()
        if len(shown) <= MOST or not self.is_vertical_scroll_end:  # the user may be reading them
            return
        first = shown[-MORE]
        children = list(self.messages.children)
        before = children[: children.index(first)]
        await self._remove(before)
        self._first += len(shown) - MORE

    async def _count_earlier(self) -> None:
        await self.messages.query(Earlier).remove()
        if self._first:
            text = f"{self._first} earlier messages: Page Up, or scroll up"
            await self.messages.mount(Earlier(text, markup=False), before=self._shown()[0])

    async def _remove(self, widgets: Iterable[Widget]) -> None:
        if found := list(widgets):
            await self.messages.remove_children(found)


def _is_same(one: StoredMessage, other: StoredMessage) -> bool:
    return (one.id, one.created, one.state, one.text) == (
        other.id,
        other.created,
        other.state,
        other.text,
    )
