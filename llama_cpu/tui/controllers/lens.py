"""Opens the token lens, and continues an answer from an alternative that was chosen there."""

from collections.abc import Sequence

from llama_cpu.history.rows import State, StoredMessage
from llama_cpu.tui.controllers.answering import Answering
from llama_cpu.tui.controllers.view import Branch, ChatView

NO_ANSWER = "There is no answer to look at yet"
STILL_ANSWERING = "The answer is still being written; Esc stops it"


class TokenLens:
    """The token lens, for one chat screen."""

    def __init__(self, view: ChatView, answering: Answering) -> None:
        self._view = view
        self._answering = answering

    def open(self) -> None:
        """Look at the chosen answer or the answer to the chosen message, or at the last one."""
        view = self._view
        if not view.is_active:  # the key was pressed twice
            return
        if self._answering.is_busy:
            view.input.say(STILL_ANSWERING)
            return
        line = view.conversation.line
        answers = [message for message in line if message.role == "assistant"]
        if answers:
            view.show_lens(answers, self._place_of_chosen(answers), self._branch)
        else:
            view.input.say(NO_ANSWER)

    def _place_of_chosen(self, answers: Sequence[StoredMessage]) -> int:
        chosen = self._view.conversation_view.chosen
        for place, answer in enumerate(answers):
            if chosen and chosen.id in (answer.id, answer.parent):
                return place
        return len(answers) - 1

    def _branch(self, branch: Branch) -> None:
        self._view.run_worker(self._go_on(branch), group="command")

    async def _go_on(self, branch: Branch) -> None:
        session, answering = self._view.session, self._answering
        async with answering.changing:
            work = (session.branch, branch.answer, branch.token_ids, branch.seconds)
            if not await answering.change(*work):
                return
            if self._view.conversation.line[-1].state is not State.COMPLETE:
                answering.go_on()
