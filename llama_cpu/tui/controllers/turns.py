"""What can be done with the turns of a conversation: the actions behind the chat's keys."""

from typing import TYPE_CHECKING

from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.kv_store.index import remove_file_of
from llama_cpu.tui.controllers.copying import copy
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.markdown import code_blocks
from llama_cpu.tui.widgets.message_views import UserMessage

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

STILL_ANSWERING = "Your text is kept: Esc stops the answer, or wait and press Enter again"
NOTHING_TO_REGENERATE = "There is no answer yet to write again"
NOTHING_TO_CONTINUE = "The last answer is complete; Ctrl+R writes another one"
NO_ALTERNATIVES = "There is no other answer; Ctrl+R writes one"
NOTHING_TO_COPY = "There is nothing to copy yet"
NOTHING_TO_EDIT = "There is no message of yours yet"
NO_CODE = "There is no block of code in the last answer"
DELETE_QUESTION = "Delete your last message and all answers to it?"
EDITING = "Editing: Enter sends a new branch, Esc cancels"


class Turns:
    """One method an action. None of them waits for an answer, and those that change the
    conversation do nothing while something else does.
    """

    def __init__(self, screen: "ChatScreen") -> None:
        self._screen = screen
        self._answering = screen.answering
        self._editing: int | None = None  # place in the line of the message that is being edited
        self._draft = ""  # what was in the prompt before
        self._copied = (-1, 0)  # the answer, and its code blocks copied so far

    @property
    def is_editing(self) -> bool:
        return self._editing is not None

    # Sending and answers

    async def send(self) -> None:
        """Send what is in the prompt, and have it answered."""
        screen = self._screen
        if self._answering.is_busy:
            screen.prompt.say(STILL_ANSWERING)
            return
        async with self._answering.changing:
            text, place = screen.prompt.take(), self._editing
            self._end_editing()
            if not text.strip():  # Enter was pressed twice
                screen.prompt.put_back(text)
                return

            def take_back(text: str) -> None:
                if place is None:
                    screen.prompt.put_back(text)
                else:
                    self._begin_editing(place, text)

            if await self._answering.change(screen.conversation.add_user, text, place):
                self._answering.begin(take_back)
            else:
                take_back(text)

    async def regenerate(self) -> None:
        """Answer the user's last message once more; what was answered stays an alternative."""
        screen = self._screen
        if self._answering.changing.locked():  # a held key must not line up answers
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            screen.conversation.set_aside_answer()
            if not screen.conversation.line or screen.conversation.line[-1].role != "user":
                screen.prompt.say(NOTHING_TO_REGENERATE)
                await self._answering.change(screen.conversation.reload)
                return
            self.cancel_editing()
            await self._answering.show()
            self._answering.begin()

    async def continue_answer(self) -> None:
        """Write on at an answer that was stopped or cut; answer what has no answer."""
        screen = self._screen
        if self._answering.is_busy:
            return
        async with self._answering.changing:
            line = screen.conversation.line
            if line and line[-1].role == "user":
                self._answering.begin()
            elif line and line[-1].state is not State.COMPLETE:
                self._answering.go_on()
            else:
                screen.prompt.say(NOTHING_TO_CONTINUE)

    # Branches

    async def choose_alternative(self, step: int) -> None:
        """Show the answer before or after this one: that to the chosen message of the user, or
        the last one on the line that has alternatives.
        """
        screen = self._screen
        if self._answering.is_busy:
            return
        async with self._answering.changing:
            chosen = self._chosen()
            candidates = [chosen.message] if chosen else screen.conversation.line[::-1]
            for message in candidates:
                ids = screen.conversation.alternatives(message.id)
                if len(ids) > 1:
                    break
            else:
                screen.prompt.say(NO_ALTERNATIVES)
                return
            self.cancel_editing()
            other = ids[(ids.index(message.id) + step) % len(ids)]
            await self._answering.change(screen.conversation.choose, other)
            screen.conversation_view.show_message(other)
            screen.prompt.focus()
            if chosen:
                self._choose(other)

    async def delete_turn(self) -> None:
        """Delete the last turn, after asking."""
        screen = self._screen
        if self._answering.is_busy or not screen.conversation.line or not screen.is_active:
            return
        if await screen.app.push_screen_wait(Confirm(DELETE_QUESTION, yes="Delete", no="Keep")):
            async with self._answering.changing:
                await self._answering.stop_and_wait()
                self.cancel_editing()
                await self._answering.change(self._delete_turn)

    def _delete_turn(self) -> None:
        conversation = self._screen.conversation
        conversation_id = conversation.stored_id
        conversation.delete_last_turn()
        if conversation_id is not None:  # its KV cache on the disk may have the turn
            remove_file_of(conversation.history.file, conversation_id)

    # The user's earlier messages

    async def step(self, step: int) -> None:
        """Choose the user's message before or after the chosen one; after the last comes the
        prompt.
        """
        screen = self._screen
        chosen = self._chosen()
        shown = screen.conversation_view.user_messages()
        if chosen and chosen is shown[0] and step < 0:
            await screen.conversation_view.show_earlier()
            shown = screen.conversation_view.user_messages()
        place = (shown.index(chosen) if chosen in shown else len(shown)) + step
        if not shown:
            screen.prompt.say(NOTHING_TO_EDIT)
        elif place < len(shown):
            shown[max(0, place)].choose()
        else:
            screen.prompt.focus()

    def edit(self) -> None:
        """Put the chosen message into the prompt."""
        chosen = self._chosen()
        ids = [message.id for message in self._screen.conversation.line]
        if chosen and chosen.message.id in ids:
            self.cancel_editing()
            self._begin_editing(ids.index(chosen.message.id), chosen.message.text)

    def cancel_editing(self) -> None:
        """Leave the message as it was; the prompt has what it had before."""
        if self.is_editing:
            self._screen.prompt.lay_aside()
            self._end_editing()

    def _begin_editing(self, place: int, text: str) -> None:
        prompt = self._screen.prompt
        self._editing, self._draft = place, prompt.lay_aside()
        prompt.put_back(text)
        prompt.border_title = EDITING
        prompt.focus()
        self._screen.refresh_bindings()

    def _end_editing(self) -> None:
        prompt = self._screen.prompt
        if self.is_editing and self._draft:
            prompt.put_back_draft(self._draft)
        self._editing, self._draft = None, ""
        prompt.border_title = ""
        self._screen.refresh_bindings()

    def _chosen(self) -> UserMessage | None:
        focused = self._screen.focused
        return focused if isinstance(focused, UserMessage) else None

    def _choose(self, message: int) -> None:
        for widget in self._screen.conversation_view.user_messages():
            if widget.message.id == message:
                widget.choose()

    # Copies

    def copy_answer(self) -> None:
        """Copy the last answer as it was written, Markdown and all."""
        answer = self._last_answer()
        if answer is None:
            self._screen.prompt.say(NOTHING_TO_COPY)
        else:
            self._screen.prompt.say(copy(self._screen.app, answer.text, "Answer"))

    def copy_code(self) -> None:
        """Copy a block of code of the last answer: the last one, next time the one before."""
        answer = self._last_answer()
        blocks = code_blocks(answer.text) if answer else []
        if not answer or not blocks:
            self._screen.prompt.say(NO_CODE)
            return
        copied = self._copied[1] if self._copied[0] == answer.id else 0
        number = len(blocks) - copied % len(blocks)
        self._copied = answer.id, copied + 1
        what = f"Code block {number} of {len(blocks)}" if len(blocks) > 1 else "Code block"
        self._screen.prompt.say(copy(self._screen.app, blocks[number - 1], what))

    def _last_answer(self) -> StoredMessage | None:
        answers = [each for each in self._screen.conversation.line if each.role == "assistant"]
        return answers[-1] if answers else None
