"""What can be done with whole conversations: the actions behind the list's keys."""

import asyncio
from typing import TYPE_CHECKING

from llama_cpu.errors import UserError
from llama_cpu.history.rows import Conversation
from llama_cpu.kept_files import forget
from llama_cpu.text import printable
from llama_cpu.timings import Timings
from llama_cpu.tui.ask import Ask
from llama_cpu.tui.confirm import Confirm

if TYPE_CHECKING:
    from llama_cpu.tui.chat_screen import ChatScreen

LOST = "Begin a new conversation? This one will be lost."


class Library:
    """One method an action; an answer that is being written is stopped, and kept, where another
    conversation is to be shown."""

    def __init__(self, screen: "ChatScreen") -> None:
        self._screen = screen
        self._answering = screen.answering

    async def begin_anew(self) -> None:
        """An empty conversation; asks first where the one that is shown would be lost."""
        screen, record = self._screen, self._screen.record
        if not screen.is_active:  # the key was pressed twice
            return
        is_lost = bool(record.line) and not record.is_kept
        if is_lost and not await self._is_sure(LOST, "Begin anew"):
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            if not record.is_kept and record.kept_id:  # in memory: it was to be lost
                await self._try(record.history.delete, record.kept_id)
            screen.turns.cancel_editing()
            self._answering.timings = Timings()
            await self._answering.change(record.clear)
            screen.cache_work.begin()
            screen.prompt.focus()

    async def open(self, conversation: Conversation) -> None:
        """Show another conversation."""
        screen = self._screen
        screen.leave_sidebar()  # at once: what is typed next is for the prompt
        if conversation.id != screen.record.kept_id:
            async with self._answering.changing:
                await self._answering.stop_and_wait()
                screen.turns.cancel_editing()
                self._answering.timings = Timings()
                await self._answering.change(screen.record.open, conversation.id)
                screen.cache_work.begin()
                self._answering.say_if_cut()

    async def keep_settings(self) -> None:
        """Store those of the conversation that is shown."""
        await self._try(self._screen.record.keep_settings)

    async def rename(self, conversation: Conversation) -> None:
        """Ask for a title; an empty one brings the first words back."""
        if not self._screen.is_active:
            return
        question = "Title (empty: the first words)"
        title = await self._screen.app.push_screen_wait(Ask(question, conversation.title))
        if title is not None:
            await self._try(self._screen.record.history.rename, conversation.id, title)

    async def duplicate(self, conversation: Conversation) -> None:
        """The same conversation once more."""
        await self._try(self._screen.record.history.duplicate, conversation.id)

    async def delete(self, conversation: Conversation) -> None:
        """Delete it, after asking."""
        record = self._screen.record
        if not self._screen.is_active:
            return
        count = conversation.message_count
        messages = "1 message" if count == 1 else f"{count} messages"
        question = f"Delete “{printable(conversation.title)}” with its {messages}?"
        if not await self._is_sure(question, "Delete"):
            return
        if conversation.id != record.kept_id:
            await self._try(self._delete, conversation.id)
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            self._screen.turns.cancel_editing()
            if await self._try(self._delete, conversation.id):
                await self._answering.change(record.clear)
                self._screen.cache_work.begin()

    def _delete(self, conversation: int) -> None:
        history = self._screen.record.history
        history.delete(conversation)
        forget(history.file, conversation)

    async def _is_sure(self, question: str, yes: str) -> bool:
        answer = await self._screen.app.push_screen_wait(Confirm(question, yes=yes, no="Keep"))
        return bool(answer)

    async def _try(self, *work: object) -> bool:
        """Do something in a thread and list the conversations anew; False where it failed."""
        try:
            await asyncio.to_thread(*work)  # type: ignore[arg-type]
        except UserError as error:  # the disk, or another window was first
            self._screen.notify(str(error), severity="error", markup=False)
            return False
        finally:
            self._screen.conversation_changed()
        return True
