"""From one model to another while the conversation stays.

Where both fit into memory the present model is kept until the other one is ready, so that a
cancelled or failed loading changes nothing. Else the present one is let go first, after asking, and
is loaded again where the other one is not to be had; everything that can be checked without
loading has been checked before.
"""

import asyncio
from dataclasses import dataclass
from threading import Event as Flag
from typing import TYPE_CHECKING

from llama_cpu.errors import UserError
from llama_cpu.system.memory import available_memory
from llama_cpu.system.process import give_back_memory
from llama_cpu.system.text import human_bytes, printable
from llama_cpu.tui.screens.chat import ChatScreen, ScreenState
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.screens.loading import LoadingScreen
from llama_cpu.tui.screens.models import ChosenModel

if TYPE_CHECKING:
    from llama_cpu.chat.choose_model import Choice
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.loading.plan import LoadPlan
    from llama_cpu.loading.weight_reader import Progress
    from llama_cpu.tui.app import ChatApp


@dataclass
class _Switch:
    """One that is under way."""

    choice: "Choice"
    carried: ScreenState
    before: "LoadPlan | None" = None  # what to load again: the present model had to go
    is_way_back: bool = False


class ModelSwitch:
    """One switch at a time; the app tells what became of the loading screen."""

    def __init__(self, app: "ChatApp") -> None:
        self._app = app
        self._switch: _Switch | None = None

    @property
    def is_active(self) -> bool:
        """Whether what is being loaded goes on with a conversation."""
        return self._switch is not None

    @property
    def has_way_back(self) -> bool:
        """Whether it may fail, or be cancelled."""
        return self._switch is not None and not self._switch.is_way_back

    async def begin(self, chosen: ChosenModel, chat: ChatScreen) -> None:
        """Check the model, ask if need be, and load it."""
        app, old = self._app, chat.session
        await chat.answering.stop_and_wait()
        available = available_memory()
        free = available + old.freeable_bytes
        found = chosen.found
        try:
            choice = await asyncio.to_thread(
                app.models.choose, found.path, found.name, chosen.precision, free
            )
        except UserError as error:
            chat.conversation_view.add_notice(str(error), kind="problem")
            return
        if app.is_leaving:
            return
        await app.uncover(ChatScreen)
        has_room = choice.needed <= available
        if not has_room and not await self._may_let_go(choice, available, chat):
            return
        await chat.answering.stop_and_wait()  # one may have been begun meanwhile
        await app.uncover(ChatScreen)
        chat.turns.cancel_editing()
        carried = ScreenState(chat.prompt.lay_aside(), chat.prompt.memory)
        self._switch = _Switch(choice, carried)
        if has_room:
            app.push_screen(self._loading(choice))
            return
        self._switch.before, app.session = app.plan, None
        app.switch_screen(self._loading(choice, instead_of=old))

    async def _may_let_go(self, choice: "Choice", available: int, chat: ChatScreen) -> bool:
        question = (
            f"{choice.plan.name} needs {human_bytes(choice.needed)} and {human_bytes(available)} "
            "are free: the present model has to go first. If you cancel, it is loaded again."
        )
        confirm = Confirm(printable(question), yes="Go on", no="Keep it")
        is_sure = await chat.app.push_screen_wait(confirm)
        return bool(is_sure)

    def _loading(self, choice: "Choice", instead_of: "ChatSession | None" = None) -> LoadingScreen:
        def open_session(on_progress: "Progress", stop: Flag) -> "ChatSession":
            if instead_of:
                instead_of.let_go()
                give_back_memory()
            return choice.open_session(on_progress, stop)

        plan = choice.plan
        title = f"Loading {plan.name} ({plan.precision.label})"
        return LoadingScreen(title, open_session, self._app.model_thread)

    async def loaded(self, session: "ChatSession") -> None:
        """The conversation goes on with the new model."""
        assert self._switch
        switch, self._switch = self._switch, None
        app, plan = self._app, switch.choice.plan
        old, carried = app.session, switch.carried
        if not switch.is_way_back:
            carried.notice = f"{plan.name} ({plan.precision.label}) answers from here on."
        await app.uncover(ChatScreen if old else LoadingScreen)
        app.plan, app.session = plan, session
        await app.switch_screen(ChatScreen(session, plan.is_demo, app.model_thread, carried))
        if old:
            old.let_go()
            await asyncio.to_thread(give_back_memory)

    async def failed(self, problem: str) -> None:
        """Back to the model of before. Raises UserError where its files are no longer there."""
        assert self._switch
        switch, app = self._switch, self._app
        switch.carried.notice = problem
        if switch.before is None:
            self._switch = None
            await app.uncover(ChatScreen)
            chat = app.screen
            assert isinstance(chat, ChatScreen)
            chat.carry(switch.carried)
            return
        plan = switch.before
        before = await asyncio.to_thread(
            app.models.choose, plan.source, plan.name, plan.precision, None
        )
        self._switch = _Switch(before, switch.carried, is_way_back=True)
        await app.uncover(LoadingScreen)
        await app.switch_screen(self._loading(before))
