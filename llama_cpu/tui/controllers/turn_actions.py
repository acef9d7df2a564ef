"""Actions on the turns of a conversation: send, answer again, edit, branch, delete, copy."""

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.thinking import split_thinking
from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.kv_store.index import remove_file_of
from llama_cpu.tui.controllers.answering import Answering, TakeBack
from llama_cpu.tui.controllers.copying import copy
from llama_cpu.tui.controllers.view import ChatView
from llama_cpu.tui.markdown import code_blocks
from llama_cpu.tui.slash_commands import as_message

LOADING = "The model is still loading"
NO_MODEL = "There is no model to answer; F3 chooses one"
STILL_WAITING = "Your text is kept: one message is waiting for the model; Esc takes it back"
STILL_ANSWERING = "Your text is kept: Esc stops the answer, or wait and press Enter again"
NOTHING_TO_REGENERATE = "There is no answer yet to write again"
SAME_ANSWER = "At temperature 0 the answer stays the same; /set temperature 0.5 varies it"
NOTHING_TO_CONTINUE = "The last answer is complete"
NO_ALTERNATIVES = "There is no other answer"
WRITES_ANOTHER = "; Ctrl+R writes another one"
VARIES = "; /set temperature 0.5, then Ctrl+R varies it"  # at temperature 0
NOTHING_TO_COPY = "There is nothing to copy yet"
NOTHING_TO_EDIT = "There is no message yet"
NO_CODE = "The last answer has no code block"
DELETE_QUESTION = "Delete your last message and all answers to it?"
EDITING = "Editing: Enter sends a new branch, Esc cancels"
EDITING_ANSWER = "Editing the answer: Enter saves it, Esc cancels"
ANSWER_SAVED = "Saved; Alt+Left shows the answer before, Ctrl+G continues this one"
UNCHANGED = "The answer is as it was"
EDITED_IS_GONE = "Your text is kept; what you edit was deleted in another window"
BOTH_KEPT = "The other window's answer goes on beside yours; Alt+Left shows it"


class TurnActions:
    """Actions on the turns of a conversation, one method each.

    No action waits for an answer. While the conversation is changing, further actions that would
    change it do nothing.
    """

    def __init__(self, view: ChatView, answering: Answering) -> None:
        self._view = view
        self._answering = answering
        self._editing: int | None = None  # index in the line of the message that is being edited
        self._draft = ""  # the text of the input before that
        self._copied = (-1, 0)  # an answer, and how many of its code blocks were copied

    @property
    def _conversation(self) -> Conversation:
        return self._view.conversation

    @property
    def is_editing(self) -> bool:
        return self._editing is not None

    # Sending and answers

    async def send(self) -> None:
        """Send the message in the input and answer it, or save the answer that is being edited."""
        view = self._view
        await self._answering.catch_up()
        if self._answering.is_busy:
            view.input.say(STILL_WAITING if self._answering.is_waiting else STILL_ANSWERING)
            return
        if self._is_editing_answer:
            await self._save_answer()
            return
        if not view.is_loading and not self.says_has_model():
            return
        async with self._answering.changing:
            text, place = view.attachments.expand(view.input.take()), self._editing
            self._end_editing()
            if not text.strip():  # Enter was pressed twice
                view.input.put_back(text)
                return

            def take_back(text: str) -> None:
                if place is None:
                    view.input.put_back(view.attachments.collapse(text))
                else:
                    self._begin_editing(place, text)

            is_beside = place is None and self._conversation.is_written_elsewhere
            if await self._answering.change(self._conversation.add_user, text, place):
                await self._answer(take_back)
                if is_beside:
                    view.input.say(BOTH_KEPT)
            else:
                take_back(text)

    @property
    def _is_editing_answer(self) -> bool:
        line, place = self._conversation.line, self._editing
        return place is not None and place < len(line) and line[place].role == "assistant"

    async def _save_answer(self) -> None:
        """Save the edited answer beside the one before; no answer is generated."""
        view, place = self._view, self._editing
        assert place is not None
        async with self._answering.changing:
            text, before = as_message(view.input.lay_aside()), self._conversation.line[place]
            self._end_editing()
            if text.strip() == before.text.strip():
                view.input.say(UNCHANGED)
            elif await self._answering.change(self._conversation.edit_answer, place, text):
                view.input.say(ANSWER_SAVED)
            else:
                self._begin_editing(place, text)

    def says_has_model(self) -> bool:
        """Return whether there is a model; otherwise say so."""
        view = self._view
        if not view.has_model:
            view.input.say(LOADING if view.is_loading else NO_MODEL)
        return view.has_model

    async def _answer(self, take_back: TakeBack | None = None) -> None:
        """Answer the last message, at once or as soon as the model is loaded."""
        if self._view.has_model:
            self._answering.begin(take_back)
        else:
            await self._answering.wait(take_back)

    async def regenerate(self) -> None:
        """Answer the user's last message again; the present answer stays as an alternative."""
        await self._answering.catch_up()
        if self._answering.changing.locked():  # a held key must not queue up answers
            return
        if not self.says_has_model():
            return
        async with self._answering.changing:
            await self._answering.stop_and_wait()
            conversation = self._conversation
            conversation.set_aside_answer()
            if not conversation.line or conversation.line[-1].role != "user":
                self._view.input.say(NOTHING_TO_REGENERATE)
                await self._answering.change(conversation.reload)
                return
            self.cancel_editing()
            await self._answering.show()
            self._answering.begin()
            if self._view.session.settings.temperature == 0:
                self._view.input.say(SAME_ANSWER)

    async def continue_answer(self) -> None:
        """Continue an answer that was stopped, cut or edited; answer a message without one."""
        await self._answering.catch_up()
        if self._answering.is_busy or not self.says_has_model():
            return
        async with self._answering.changing:
            line = self._conversation.line
            if line and line[-1].role == "user":
                self._answering.begin()
            elif line and _may_go_on(line[-1]):
                self._answering.go_on()
            else:
                self._view.input.say(NOTHING_TO_CONTINUE + self._how_to_get_another)

    @property
    def _how_to_get_another(self) -> str:
        if not self._view.has_model:
            return ""
        return WRITES_ANOTHER if self._answering.can_vary else VARIES

    # Branches

    async def choose_alternative(self, step: int) -> None:
        """Show the previous (-1) or next (1) alternative of the chosen message.

        If no message is chosen, the last message of the line that has alternatives is meant.
        """
        view = self._view
        await self._answering.catch_up()
        if self._answering.is_busy:
            return
        async with self._answering.changing:
            chosen = view.conversation_view.chosen
            candidates = [chosen] if chosen else self._conversation.line[::-1]
            for message in candidates:
                ids = self._conversation.alternatives(message.id)
                if len(ids) > 1:
                    break
            else:
                view.input.say(NO_ALTERNATIVES + self._how_to_get_another)
                return
            self.cancel_editing()
            other = ids[(ids.index(message.id) + step) % len(ids)]
            await self._answering.change(self._conversation.choose, other)
            view.conversation_view.show_message(other)
            view.input.focus()
            if chosen:
                view.conversation_view.choose(other)

    async def delete_turn(self) -> None:
        """Ask, then delete the last turn."""
        await self._answering.catch_up()
        if self._answering.is_busy or not self._conversation.line or not self._view.is_active:
            return
        if await self._view.confirm(DELETE_QUESTION, yes="Delete"):
            async with self._answering.changing:
                await self._answering.stop_and_wait()
                self.cancel_editing()
                await self._answering.change(self._delete_turn)

    def _delete_turn(self) -> None:
        conversation = self._conversation
        conversation_id = conversation.stored_id
        conversation.delete_last_turn()
        if conversation_id is not None:  # its KV cache on disk may contain the turn
            remove_file_of(conversation.history.file, conversation_id)

    # Earlier messages and answers

    async def step(self, step: int) -> None:
        """Choose the previous (-1) or next (1) message; the input follows the last one."""
        if not self._conversation.line:
            self._view.input.say(NOTHING_TO_EDIT)
        elif not await self._view.conversation_view.choose_next(step):
            self._view.input.focus()

    def edit(self) -> None:
        """Put the chosen message into the input."""
        chosen = self._view.conversation_view.chosen
        ids = [message.id for message in self._conversation.line]
        if chosen and chosen.id in ids:
            self.cancel_editing()
            self._begin_editing(ids.index(chosen.id), chosen.text)

    def cancel_editing(self) -> None:
        """Leave the edited message as it was and restore the text of the input."""
        if self.is_editing:
            self._view.input.lay_aside()
            self._end_editing()

    def line_was_cut(self, place: int) -> None:
        """If the edited message was deleted elsewhere, keep the text as that of a new message.

        ``place``: the index in the line from which on messages were deleted or replaced.
        """
        if self._editing is not None and self._editing >= place:
            self._end_editing()
            self._view.tell(EDITED_IS_GONE, kind="problem")

    def _begin_editing(self, place: int, text: str) -> None:
        input = self._view.input
        self._editing, self._draft = place, input.lay_aside()
        is_answer = self._is_editing_answer
        input.put_back(text if is_answer else self._view.attachments.collapse(text))
        input.entitle(EDITING_ANSWER if is_answer else EDITING)
        input.focus()
        self._view.refresh_bindings()

    def _end_editing(self) -> None:
        input = self._view.input
        if self.is_editing and self._draft:
            input.put_back_draft(self._draft)
        self._editing, self._draft = None, ""
        input.entitle("")
        self._view.refresh_bindings()

    # Copies

    def copy_answer(self) -> None:
        """Copy the Markdown of the last answer, without the model's thinking."""
        answer = self._last_answer()
        text = split_thinking(answer.text)[1] if answer else ""
        if text:
            self._view.tell(copy(self._view, text, "Answer"))
        else:
            self._view.input.say(NOTHING_TO_COPY)

    def copy_code(self) -> None:
        """Copy the last code block of the last answer; each further call, the block before."""
        answer = self._last_answer()
        blocks = code_blocks(split_thinking(answer.text)[1]) if answer else []
        if not answer or not blocks:
            self._view.input.say(NO_CODE)
            return
        copied = self._copied[1] if self._copied[0] == answer.id else 0
        number = len(blocks) - copied % len(blocks)
        self._copied = answer.id, copied + 1
        what = f"Code block {number} of {len(blocks)}" if len(blocks) > 1 else "Code block"
        self._view.tell(copy(self._view, blocks[number - 1], what))

    def _last_answer(self) -> StoredMessage | None:
        answers = [each for each in self._conversation.line if each.role == "assistant"]
        return answers[-1] if answers else None


def _may_go_on(answer: StoredMessage) -> bool:
    """Whether it is not known that the model has ended this answer: it was cut, or edited."""
    is_edited = bool(answer.text) and not answer.token_ids
    return answer.state is not State.COMPLETE or is_edited
