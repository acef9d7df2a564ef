"""Actions on whole conversations, such as those in the list of conversations."""

import asyncio
from collections.abc import Callable

from llama_cpu.chat.conversation import Conversation
from llama_cpu.errors import UserError
from llama_cpu.generation.timings import Timings
from llama_cpu.history.rows import StoredConversation
from llama_cpu.kv_store.index import remove_file_of
from llama_cpu.system.text import printable
from llama_cpu.tui.controllers.answering import Answering
from llama_cpu.tui.controllers.cache_work import CacheWork
from llama_cpu.tui.controllers.turn_actions import TurnActions
from llama_cpu.tui.controllers.view import ChatView

NOTHING_TO_PIN = "There is no conversation yet to pin; send a message first"
IS_PINNED = "Pinned: the list shows this conversation first"
IS_UNPINNED = "No longer pinned"
LOST = "Start a new conversation? This one will be lost."


class ConversationActions:
    """Actions on whole conversations, one method each.

    An answer in progress is stopped and kept before another conversation is shown.
    """

    def __init__(
        self, view: ChatView, answering: Answering, turns: TurnActions, cache_work: CacheWork
    ) -> None:
        self._view = view
        self._answering = answering
        self._turns = turns
        self._cache_work = cache_work

    @property
    def _conversation(self) -> Conversation:
        return self._view.conversation

    async def perform(self, verb: str, conversation: StoredConversation) -> None:
        """Perform the action that the list requested."""
        verbs = {
            "open": self.open,
            "rename": self.rename,
            "duplicate": self.duplicate,
            "pin": self.pin,
            "delete": self.delete,
        }
        await verbs[verb](conversation)

    async def begin_anew(self) -> None:
        """Start an empty conversation; ask first if the present one would be lost."""
        view, conversation = self._view, self._conversation
        if not view.is_active:  # the key was pressed twice
            return
        is_lost = bool(conversation.line) and not conversation.is_persistent
        if is_lost and not await view.confirm(LOST, yes="Start"):
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            if not conversation.is_persistent and conversation.stored_id:  # it is only in memory
                await self._try(conversation.history.delete, conversation.stored_id)
            self._turns.cancel_editing()
            self._answering.timings = Timings()
            await self._leave_notices()
            await self._answering.change(conversation.clear)
            view.show_timings()
            self._cache_work.begin()
            view.input.focus()

    async def open(self, conversation: StoredConversation) -> None:
        """Show another conversation."""
        self._view.leave_sidebar()  # at once, as the user may type on
        if conversation.id != self._conversation.stored_id:
            async with self._answering.changing:
                await self._answering.stop_and_wait()
                self._turns.cancel_editing()
                self._answering.timings = Timings()
                await self._leave_notices()
                await self._answering.change(self._conversation.open, conversation.id)
                self._cache_work.begin()
                self._answering.say_if_cut()

    async def _leave_notices(self) -> None:
        """Remove what was said about the conversation before."""
        self._view.tell("")
        await self._view.conversation_view.remove_notices()

    async def save_settings(self) -> None:
        """Store the settings of the present conversation."""
        await self._try(self._conversation.save_settings)

    async def rename(self, conversation: StoredConversation) -> None:
        """Ask for a title; an empty one restores the first words."""
        if not self._view.is_active:
            return
        question = "Title (empty: the first words)"
        title = await self._view.ask_for_line(question, conversation.title)
        if title is not None:
            await self._try(self._conversation.history.rename, conversation.id, title)

    async def duplicate(self, conversation: StoredConversation) -> None:
        """Duplicate a conversation."""
        await self._try(self._conversation.history.duplicate, conversation.id)

    async def pin(self, conversation: StoredConversation) -> None:
        """Pin a conversation, or unpin it."""
        if conversation.id == self._conversation.stored_id:
            await self._try(self._conversation.pin, not conversation.pinned)
        else:
            history = self._conversation.history
            await self._try(history.pin, conversation.id, not conversation.pinned)

    async def pin_present(self) -> None:
        """Pin the conversation that is shown, or unpin it."""
        stored = self._conversation.stored
        if stored is None or self._conversation.stored_id is None:
            self._view.input.say(NOTHING_TO_PIN)
            return
        pinned = not stored.pinned
        if await self._try(self._conversation.pin, pinned):
            self._view.input.say(IS_PINNED if pinned else IS_UNPINNED)

    async def delete(self, stored: StoredConversation) -> None:
        """Ask, then delete a conversation."""
        if not self._view.is_active:
            return
        count = stored.message_count
        messages = "1 message" if count == 1 else f"{count} messages"
        question = f"Delete “{printable(stored.title)}” with its {messages}?"
        if not await self._view.confirm(question, yes="Delete"):
            return
        if stored.id != self._conversation.stored_id:
            await self._try(self._delete, stored.id)
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            self._turns.cancel_editing()
            if await self._try(self._delete, stored.id):
                await self._answering.change(self._conversation.clear)
                self._cache_work.begin()

    def _delete(self, conversation_id: int) -> None:
        history = self._conversation.history
        history.delete(conversation_id)
        remove_file_of(history.file, conversation_id)

    async def _try(self, work: Callable[..., object], *arguments: object) -> bool:
        """Call ``work`` in a thread and list the conversations again; return False if it failed."""
        try:
            await asyncio.to_thread(work, *arguments)
        except UserError as error:  # the disk failed, or another window was faster
            self._view.warn(str(error))
            return False
        finally:
            self._view.conversation_changed()
        return True
