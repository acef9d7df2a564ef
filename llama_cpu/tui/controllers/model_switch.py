"""Switches to another model while the conversation stays.

If both models fit in memory, the present one is kept until the other one is ready, so that loading
can be cancelled or fail without any change. Otherwise the user is asked first, the present model is
freed, and it is loaded again if the other one cannot be loaded. Everything that does not require
loading is checked beforehand.
"""

import asyncio
from dataclasses import dataclass
from threading import Event as Flag

from llama_cpu.chat.session_protocol import (
    ChooseModel,
    LoadProgress,
    ModelChoice,
    ModelPlan,
    Session,
)
from llama_cpu.errors import UserError
from llama_cpu.system.memory import available_memory
from llama_cpu.system.process import give_back_memory
from llama_cpu.system.text import human_bytes, printable
from llama_cpu.tui.controllers.view import AppView, ReplaceableChat, ScreenState
from llama_cpu.tui.model_source import ChosenModel


@dataclass
class _Switch:
    """A switch in progress."""

    choice: ModelChoice
    chat: ReplaceableChat
    state: ScreenState
    before: ModelPlan | None = None  # the model to go back to, if it had to be freed
    is_way_back: bool = False


class ModelSwitch:
    """Performs one switch at a time; the app reports the result of the loading screen."""

    def __init__(self, app: AppView, choose: ChooseModel) -> None:
        self._app = app
        self._choose = choose
        self._switch: _Switch | None = None

    @property
    def is_active(self) -> bool:
        """Whether the model that is being loaded continues a conversation."""
        return self._switch is not None

    @property
    def has_way_back(self) -> bool:
        """Whether there is a model to return to if loading fails or is cancelled."""
        return self._switch is not None and not self._switch.is_way_back

    async def begin(self, chosen: ChosenModel, chat: ReplaceableChat) -> None:
        """Check the model, ask if it needs the present one's memory, and load it."""
        app, old = self._app, chat.session if chat.has_model else None
        await chat.stop_answering()
        available = available_memory()
        free = available + (old.freeable_bytes if old else 0)
        found = chosen.found
        try:
            choice = await asyncio.to_thread(
                self._choose, found.path, found.name, chosen.precision, free
            )
        except UserError as error:
            chat.conversation_view.add_notice(str(error), kind="problem")
            return
        if app.is_leaving:
            return
        await app.uncover()
        has_room = old is None or choice.needed <= available
        if not has_room and not await self._may_free(choice, available, chat):
            return
        await chat.stop_answering()  # an answer may have begun meanwhile
        await app.uncover()
        self._switch = _Switch(choice, chat, chat.put_away())
        if has_room:
            await self._load(choice, in_place=False)
            return
        self._switch.before, app.session = app.plan, None
        chat.retire()
        await self._load(choice, in_place=True, instead_of=old)

    async def _may_free(self, choice: ModelChoice, available: int, chat: ReplaceableChat) -> bool:
        question = (
            f"{choice.plan.name} needs {human_bytes(choice.needed)}, but only "
            f"{human_bytes(available)} are free: the present model has to be unloaded first. If "
            "you cancel, it is loaded again."
        )
        return await chat.confirm(printable(question), yes="Go on", no="Keep it")

    async def _load(
        self, choice: ModelChoice, in_place: bool, instead_of: Session | None = None
    ) -> None:
        def open_session(on_progress: LoadProgress, stop: Flag) -> Session:
            if instead_of:
                instead_of.let_go()
                give_back_memory()
            return choice.open_session(on_progress, stop)

        await self._app.show_loading(choice.plan, open_session, in_place)

    async def loaded(self, session: Session) -> None:
        """Continue the conversation with the new model."""
        assert self._switch
        switch, self._switch = self._switch, None
        app, plan = self._app, switch.choice.plan
        old, state = app.session, switch.state
        if not switch.is_way_back:
            state.notice = f"{plan.name} ({plan.precision.label}) answers from here on."
        await app.uncover()
        switch.chat.retire()
        app.plan, app.session = plan, session
        await app.show_chat(state)
        if old:
            old.let_go()
            await asyncio.to_thread(give_back_memory)

    async def failed(self, problem: str) -> None:
        """Go back to the previous model. Raises UserError if its files are gone."""
        assert self._switch
        switch, app = self._switch, self._app
        switch.state.notice = problem
        if switch.before is None:
            self._switch = None
            await app.uncover()
            switch.chat.restore(switch.state)
            return
        plan = switch.before
        before = await asyncio.to_thread(self._choose, plan.source, plan.name, plan.precision, None)
        self._switch = _Switch(before, switch.chat, switch.state, is_way_back=True)
        await app.uncover()
        await self._load(before, in_place=True)
