"""The app: first the loading screen, then the chat screen."""

import sys
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.theme import Theme

from llama_cpu.errors import UserError
from llama_cpu.system.text import printable
from llama_cpu.tui.controllers.cache_work import LeavingScreen
from llama_cpu.tui.controllers.model_switch import ModelSwitch
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.screens.help import HelpScreen, WelcomeScreen
from llama_cpu.tui.screens.lens import LensScreen
from llama_cpu.tui.screens.loading import LoadingScreen
from llama_cpu.tui.screens.models import ChosenModel, ModelScreen, ModelSource

if TYPE_CHECKING:
    from llama_cpu.chat.open_session import OpenSession
    from llama_cpu.chat.session import ChatSession
    from llama_cpu.loading.plan import LoadPlan

EXIT_OK = 0
EXIT_CANCELLED = 130
SWITCH_SECONDS = 0.0005


class ChatApp(App[int]):
    """A chat with one model.

    ``failure`` holds the reason if the model could not be loaded, ``answer_errors`` those why
    answers broke off.
    """

    TITLE = "llama-cpu"
    CSS_PATH = "app.tcss"
    BINDINGS = [
        Binding("ctrl+q", "quit", "Quit", id="quit", priority=True),
        Binding(
            "ctrl+p",
            "command_palette",
            "palette",
            id="command_palette",
            show=False,
            priority=True,
            tooltip="all commands, themes",
        ),
        Binding(
            "f1", "help", "Help", id="help", show=False, priority=True, tooltip="keys and commands"
        ),
    ]

    def __init__(
        self,
        plan: "LoadPlan",
        open_session: "OpenSession",
        preferences: Preferences | None = None,
        models: ModelSource | None = None,
    ) -> None:
        super().__init__()
        self.models = models or ModelSource()
        self._preferences = preferences or Preferences()
        self.keymap = self._preferences.keymap
        self.set_keymap(self.keymap)
        # Textual's footer looks for the palette's key there.
        palette = self.keymap.get("command_palette", self.COMMAND_PALETTE_BINDING)
        self.COMMAND_PALETTE_BINDING = palette.split(",")[0]  # type: ignore[misc]
        self.plan = plan
        self._open_session = open_session
        # One thread for all of the model's work: PyTorch keeps a team of helpers for each
        # thread that computes.
        self.model_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.session: ChatSession | None = None
        self._saving = Lock()
        self._switch = ModelSwitch(self)
        self.failure: Exception | None = None
        self.answer_errors: list[Exception] = []

    def on_mount(self) -> None:
        """Load first."""
        self.theme = self._preferences.theme
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        title = f"Loading {self.plan.name} ({self.plan.precision.label})"
        self.push_screen(LoadingScreen(title, self._open_session, self.model_thread))

    def action_help(self) -> None:
        """Keys and commands."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.keymap))

    @property
    def shows_panels(self) -> bool:
        """Whether the user wants them, where there is room."""
        return self._preferences.panels

    def remember_panels(self, shown: bool) -> None:
        """For the next start, too."""
        self._preferences = replace(self._preferences, panels=shown)
        self._save("panels", shown)

    def _remember_theme(self, theme: Theme) -> None:
        if theme.name != self._preferences.theme:
            self._preferences = replace(self._preferences, theme=theme.name)
            self._save("theme", theme.name)

    @work(thread=True, group="preferences")
    def _save(self, name: str, value: object) -> None:
        with self._saving:  # one after the other, the last one last
            preferences = self._preferences
            if getattr(preferences, name) != value:  # another one was chosen since
                return
            try:
                preferences.save(name)
            except UserError as error:
                self.notify(printable(str(error)), severity="warning", markup=False)

    @property
    def is_leaving(self) -> bool:
        """Whether the app waits for the KV cache to be kept, and then ends."""
        return any(isinstance(each, LeavingScreen) for each in self.screen_stack)

    async def uncover(self, kind: type[Screen]) -> None:
        """Close what was opened over the screen of that kind, as if the user had cancelled it."""
        while not isinstance(self.screen, kind):
            await self.screen.dismiss()

    async def on_loading_screen_loaded(self, message: LoadingScreen.Loaded) -> None:
        """The chat can begin, or go on with another model."""
        if self._switch.is_active:
            self.run_worker(self._switch.loaded(message.session), group="switch")
            return
        self.session = message.session
        await self.uncover(LoadingScreen)  # there may be the help
        chat = ChatScreen(message.session, self.plan.is_demo, self.model_thread)
        self.switch_screen(chat)
        marker = self._preferences.welcome_marker
        if marker and not marker.exists():
            self.push_screen(WelcomeScreen(self.keymap, marker, lambda: chat.prompt))

    def on_loading_screen_failed(self, message: LoadingScreen.Failed) -> None:
        """Leave, where there is no way back; ``run_app`` passes the reason on."""
        if self._switch.has_way_back:
            self.run_worker(self._go_back(_sentence(message.error)), group="switch")
            return
        self._fail(message.error)

    def on_loading_screen_cancelled(self) -> None:
        """Back to the model of before, or leave."""
        if self._switch.has_way_back:
            self.run_worker(self._go_back("The other model was not loaded."), group="switch")
        else:
            self.exit(EXIT_CANCELLED)

    async def _go_back(self, problem: str) -> None:
        try:
            await self._switch.failed(problem)
        except UserError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.exit()

    def on_chat_screen_models_wanted(self) -> None:
        """Show what there is."""
        if not isinstance(self.screen, ChatScreen):  # the key was pressed twice
            return
        find, precision = self.models.find, self.plan.precision.label
        self.push_screen(ModelScreen(find, precision), self._change_model)

    def _change_model(self, chosen: ChosenModel | None) -> None:
        if chosen and isinstance(self.screen, ChatScreen):
            begin = self._switch.begin(chosen, self.screen)
            self.run_worker(begin, group="choice", exclusive=True)  # the last one counts

    def on_chat_screen_answer_failed(self, message: ChatScreen.AnswerFailed) -> None:
        """The screen has said so; ``run_app`` can say where."""
        self.answer_errors.append(message.error)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers."""
        yield from super().get_system_commands(screen)
        yield SystemCommand("Help", "Keys and commands (F1)", self.action_help)
        if isinstance(screen, ChatScreen | FiguresScreen):
            yield from screen.commands()

    def close(self) -> None:
        """Wait for the model's thread, which was told to stop, and let go of what it used."""
        self.model_thread.shutdown()
        if self.session:
            self.session.close()

    async def action_quit(self) -> None:
        """Leave, once the KV cache is kept, or at once if asked again; a screen that is left stops
        the model's work.
        """
        chat = next((each for each in self.screen_stack if isinstance(each, ChatScreen)), None)
        if self.is_leaving:
            self.exit(EXIT_OK)
        elif chat and not self._switch.is_active and chat.session.has_unsaved_cache:
            for each in self.screen_stack:
                if isinstance(each, LensScreen):
                    each.stop()
            self.push_screen(LeavingScreen(chat, self.model_thread), lambda _: self.exit(EXIT_OK))
        else:
            self.exit(EXIT_OK if self.session else EXIT_CANCELLED)


def run_app(
    plan: "LoadPlan",
    open_session: "OpenSession",
    debug: bool = False,
    preferences: Preferences | None = None,
    models: ModelSource | None = None,
) -> int:
    """Run the app until the user leaves; returns the exit code.

    Raises what kept the model from being loaded. ``debug`` prints in the end where answers failed.
    """
    app = ChatApp(plan, open_session, preferences, models)
    # The model's thread lets go of the interpreter at every operator. Each time the screen's has
    # something to draw it takes it, and by default keeps it for 5 ms: an operator takes 0.05 ms.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        exit_code = app.run()
    finally:
        app.close()
    if debug:
        for error in app.answer_errors:
            traceback.print_exception(error)
    if app.failure:
        raise app.failure
    return exit_code if exit_code is not None else app.return_code or EXIT_OK


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"The model could not be loaded: {type(error).__name__}: {error}"[:500]
