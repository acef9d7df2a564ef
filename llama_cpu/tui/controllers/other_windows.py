"""Shows what other windows change in the same history, once a second."""

import asyncio
import contextlib
from itertools import takewhile

from llama_cpu.chat.conversation import News
from llama_cpu.errors import UserError
from llama_cpu.history.rows import StoredMessage
from llama_cpu.tui.controllers.answering import Answering
from llama_cpu.tui.controllers.turn_actions import TurnActions
from llama_cpu.tui.controllers.view import ChatView

WATCH_SECONDS = 1.0


class OtherWindows:
    """Follows the changes that other windows make, for one chat screen.

    The prompt, the scroll position and an answer in progress are left alone: while the model
    answers or another screen covers the chat, only the list of conversations is updated, and the
    conversation afterwards.
    """

    def __init__(self, view: ChatView, answering: Answering, turns: TurnActions) -> None:
        self._view = view
        self._answering = answering
        self._turns = turns
        self._is_looking = False
        self._is_behind = False  # the conversation may have changed and is not shown so yet

    def look(self) -> None:
        """Look for changes, unless this is still being done: the disk may be slow."""
        if not self._is_looking:
            self._is_looking = True
            self._view.run_worker(self._look(), group="other windows")

    async def _look(self) -> None:
        try:
            with contextlib.suppress(UserError):  # what the user does next will say it
                await self._catch_up()
        finally:
            self._is_looking = False

    async def _catch_up(self) -> None:
        view = self._view
        # In a thread, as the database may be locked, on some file systems also for reading.
        if await asyncio.to_thread(view.conversation.history.changed_elsewhere):
            self._is_behind = True
            if view.is_attached:
                view.conversation_changed()
        # A process that dies while it writes an answer changes nothing in the database.
        if not (self._is_behind or view.conversation.is_written_elsewhere) or self._must_wait:
            return
        before = view.conversation.stored, view.conversation.line
        news = await asyncio.to_thread(view.conversation.news)
        is_same = view.conversation.stored is before[0] and view.conversation.line is before[1]
        if self._must_wait or not is_same:
            return
        self._is_behind = False
        if news:
            await self._show(news)

    @property
    def _must_wait(self) -> bool:
        view = self._view
        return self._answering.is_busy or not (view.is_attached and view.is_active)

    async def _show(self, news: News) -> None:
        view, conversation = self._view, self._view.conversation
        async with self._answering.catching_up():
            before, chosen = conversation.line, view.conversation_view.chosen
            conversation.take_over(news)
            self._turns.line_was_cut(_places_kept(before, conversation.line))
            await self._answering.show()
            if chosen and not view.conversation_view.chosen:  # its widget was replaced
                view.input.focus()
                view.conversation_view.choose(chosen.id)


def _places_kept(before: list[StoredMessage], after: list[StoredMessage]) -> int:
    """The number of messages at the beginning that are the same ones."""
    pairs = zip(before, after, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, pairs))
