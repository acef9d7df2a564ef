"""What can be done with whole conversations: the actions behind the list's keys."""

import asyncio
from typing import TYPE_CHECKING

from llama_cpu.errors import UserError
from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import StoredConversation
from llama_cpu.kv_store.index import remove_file_of
from llama_cpu.system.text import printable
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

LOST = "Begin a new conversation? This one will be lost."


class Library:
    """One method an action; an answer that is being written is stopped, and kept, where another
    conversation is to be shown.
    """

    def __init__(self, screen: "ChatScreen") -> None:
        self._screen = screen
        self._answering = screen.answering

    async def begin_anew(self) -> None:
        """An empty conversation; asks first where the one that is shown would be lost."""
        screen, conversation = self._screen, self._screen.conversation
        if not screen.is_active:  # the key was pressed twice
            return
        is_lost = bool(conversation.line) and not conversation.is_persistent
        if is_lost and not await self._is_sure(LOST, "Begin anew"):
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            # In memory, so it was to be lost.
            if not conversation.is_persistent and conversation.stored_id:
                await self._try(conversation.history.delete, conversation.stored_id)
            screen.turns.cancel_editing()
            self._answering.timings = Timings()
            await self._answering.change(conversation.clear)
            screen.cache_work.begin()
            screen.prompt.focus()

    async def open(self, conversation: StoredConversation) -> None:
        """Show another conversation."""
        screen = self._screen
        screen.leave_sidebar()  # at once: what is typed next is for the prompt
        if conversation.id != screen.conversation.stored_id:
            async with self._answering.changing:
                await self._answering.stop_and_wait()
                screen.turns.cancel_editing()
                self._answering.timings = Timings()
                await self._answering.change(screen.conversation.open, conversation.id)
                screen.cache_work.begin()
                self._answering.say_if_cut()

    async def keep_settings(self) -> None:
        """Store those of the conversation that is shown."""
        await self._try(self._screen.conversation.save_settings)

    async def rename(self, conversation: StoredConversation) -> None:
        """Ask for a title; an empty one brings the first words back."""
        if not self._screen.is_active:
            return
        question = "Title (empty: the first words)"
        title = await self._screen.app.push_screen_wait(Ask(question, conversation.title))
        if title is not None:
            await self._try(self._screen.conversation.history.rename, conversation.id, title)

    async def duplicate(self, conversation: StoredConversation) -> None:
        """The same conversation once more."""
        await self._try(self._screen.conversation.history.duplicate, conversation.id)

    async def delete(self, stored: StoredConversation) -> None:
        """Delete it, after asking."""
        shown = self._screen.conversation
        if not self._screen.is_active:
            return
        count = stored.message_count
        messages = "1 message" if count == 1 else f"{count} messages"
        question = f"Delete “{printable(stored.title)}” with its {messages}?"
        if not await self._is_sure(question, "Delete"):
            return
        if stored.id != shown.stored_id:
            await self._try(self._delete, stored.id)
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            self._screen.turns.cancel_editing()
            if await self._try(self._delete, stored.id):
                await self._answering.change(shown.clear)
                self._screen.cache_work.begin()

    def _delete(self, conversation_id: int) -> None:
        history = self._screen.conversation.history
        history.delete(conversation_id)
        remove_file_of(history.file, conversation_id)

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
