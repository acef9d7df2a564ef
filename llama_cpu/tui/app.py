"""The app: it shows the chat at once, and loads the model meanwhile."""

import sys
import traceback
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock

from textual import events, work
from textual.app import App, SystemCommand
from textual.dom import DOMNode
from textual.screen import Screen
from textual.theme import Theme
from textual.worker import WorkerFailed

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session_protocol import ModelPlan, OpenSession, PlanModel, Session
from llama_cpu.errors import UserError
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import ACTIONS, Scope, bindings
from llama_cpu.tui.controllers.model_switch import ModelSwitch
from llama_cpu.tui.controllers.view import ScreenState
from llama_cpu.tui.messages import AnswerFailed, Warned
from llama_cpu.tui.model_source import ChosenModel, ModelSource
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.presets import Presets
from llama_cpu.tui.screens.chat import ChatScreen
from llama_cpu.tui.screens.confirm import QuitQuestion
from llama_cpu.tui.screens.help import HelpScreen, WelcomeScreen
from llama_cpu.tui.screens.leaving import LeavingScreen
from llama_cpu.tui.screens.loading import LoadingScreen
from llama_cpu.tui.textual_private import tell_alt_enter
from llama_cpu.tui.user_keys import keys_of, shown
from llama_cpu.tui.widgets.loading_bar import LoadingBar
from llama_cpu.weights.formats import FORMATS

CHOOSE_ANOTHER = "What you wrote is kept; F3 chooses another model, Ctrl+Q quits."
EXIT_OK = 0
EXIT_CANCELLED = 130
SWITCH_SECONDS = 0.0005


class ChatApp(App[int]):
    """A chat with one model, which is loaded while the chat is on the screen.

    ``plan`` and ``session`` are None until it is loaded. ``failure`` is the reason if it could not
    be loaded; ``answer_errors`` are the unexpected exceptions of the model's thread.
    """

    TITLE = "llama-cpu"
    CSS_PATH = "app.tcss"
    # Of the dialogs; the screens that have panels choose others.
    HORIZONTAL_BREAKPOINTS = [(0, "-tight"), (50, "-loose")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (10, "-high")]
    BINDINGS = bindings(Scope.APP)

    def __init__(
        self,
        conversation: Conversation,
        plan_model: PlanModel,
        preferences: Preferences | None = None,
        models: ModelSource | None = None,
        is_demo: bool = False,
    ) -> None:
        """``plan_model``: plans the model of the start. ``is_demo``: it is the demo model."""
        super().__init__()
        tell_alt_enter()
        self._models = models or ModelSource()
        self._preferences = preferences or Preferences()
        self.keymap = self._preferences.keymap
        self._presets = Presets(self._preferences.config)
        self.set_keymap(self.keymap)
        # Textual's footer reads the key of the command palette from this attribute.
        palette = self.keymap.get("command_palette", self.COMMAND_PALETTE_BINDING)
        self.COMMAND_PALETTE_BINDING = palette.split(",")[0]  # type: ignore[misc]
        self.conversation = conversation
        self._plan_model = plan_model
        self._is_ready = False
        self._early_input: list[events.Event] = []
        self._is_demo = is_demo
        self.plan: ModelPlan | None = None
        # One thread for all of the model's work: PyTorch keeps a thread pool for each thread that
        # computes.
        self._model_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.session: Session | None = None
        self._saving = Lock()
        self._switch = ModelSwitch(self, self._models.choose)
        self.failure: Exception | None = None
        self.answer_errors: list[Exception] = []

    def on_mount(self) -> None:
        """Show the chat, which loads the model."""
        self.theme = self._preferences.theme
        self.theme_changed_signal.subscribe(self, self._remember_theme)
        chat = self._chat_screen(self._plan_model, self._is_demo)
        self.push_screen(chat)
        marker = self._preferences.welcome_marker
        if marker and not marker.exists():
            self.push_screen(WelcomeScreen(self.keymap, marker, lambda: chat.input))

    async def on_event(self, event: events.Event) -> None:
        """Keep what is typed or pasted before the prompt is there."""
        if isinstance(event, events.Key | events.Paste) and not self._is_ready:
            self._early_input.append(event)
        else:
            await super().on_event(event)

    async def on_chat_screen_ready(self) -> None:
        """Give the prompt what was typed before."""
        self._is_ready = True
        early, self._early_input = self._early_input, []
        for event in _with_enter_at_the_end(early):
            await super().on_event(event)

    def _loading_screen(self, plan: ModelPlan, open_session: OpenSession) -> LoadingScreen:
        title = f"Loading {plan.name} ({plan.precision.label})"
        return LoadingScreen(title, open_session, self._model_thread)

    def _chat_screen(
        self, model: Session | PlanModel, is_demo: bool, state: ScreenState | None = None
    ) -> ChatScreen:
        panels = self._preferences.panels
        return ChatScreen(
            self.conversation,
            model,
            is_demo,
            self._model_thread,
            self.keymap,
            self._presets,
            panels,
            state,
        )

    def action_help(self) -> None:
        """Show the keys and commands."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.keymap))

    def on_chat_screen_panels_toggled(self, message: ChatScreen.PanelsToggled) -> None:
        """Remember for the next start whether the panels are shown."""
        self._preferences = replace(self._preferences, panels=message.shown)
        self._save("panels", message.shown)

    def _remember_theme(self, theme: Theme) -> None:
        if theme.name != self._preferences.theme:
            self._preferences = replace(self._preferences, theme=theme.name)
            self._save("theme", theme.name)

    @work(thread=True, group="preferences")
    def _save(self, name: str, value: object) -> None:
        with self._saving:  # one after the other, in order
            preferences = self._preferences
            if getattr(preferences, name) != value:  # another value was chosen in the meantime
                return
            try:
                preferences.save(name)
            except UserError as error:
                self.notify(printable(str(error)), severity="warning", markup=False)

    @property
    def is_leaving(self) -> bool:
        """Whether the app saves the KV cache and then ends."""
        return any(isinstance(each, LeavingScreen) for each in self.screen_stack)

    async def uncover(self) -> None:
        """Close all screens above the chat or loading screen, as if the user had cancelled them."""
        while len(self.screen_stack) > 2:  # Textual's own screen is the lowest
            await self.screen.dismiss()

    async def show_loading(
        self, plan: ModelPlan, open_session: OpenSession, in_place: bool
    ) -> None:
        """Load another model, in place of the present screen or over it."""
        screen = self._loading_screen(plan, open_session)
        await (self.switch_screen(screen) if in_place else self.push_screen(screen))

    async def show_chat(self, state: ScreenState) -> None:
        """Return to the present session in place of the present screen."""
        assert self.session and self.plan
        await self.switch_screen(self._chat_screen(self.session, self.plan.is_demo, state))

    def on_loading_bar_loaded(self, message: LoadingBar.Loaded) -> None:
        """Go on with the model of the start."""
        self.plan, self.session = message.plan, message.session
        if chat := self._chat:
            self.run_worker(chat.begin_with(message.session), group="start")

    def on_loading_bar_failed(self, message: LoadingBar.Failed) -> None:
        """Quit, and ``run_app`` raises the reason; if something was typed, say it in the chat."""
        self.failure = message.error
        self._go_on_without_model(_sentence(message.error), None)

    def on_loading_bar_cancelled(self) -> None:
        """Quit, or go on without a model if something was typed."""
        self._go_on_without_model("The model was not loaded.", EXIT_CANCELLED)

    def _go_on_without_model(self, problem: str, exit_code: int | None) -> None:
        chat = self._chat
        if chat is None or chat.is_untouched:
            self.exit(exit_code)
        else:
            self.run_worker(chat.give_up(f"{problem} {CHOOSE_ANOTHER}"), group="start")

    def warn_user(
        self, message: Warning | str, category: type[Warning], *_: object, **__: object
    ) -> None:
        """Show a warning for the user in the chat, in place of ``warnings.showwarning``.

        May be called from any thread; a warning for programmers is not shown.
        """
        if category is UserWarning:
            self.post_message(Warned(str(message)))

    def on_warned(self, message: Warned) -> None:
        """Show a warning below the messages."""
        if chat := self._chat:
            chat.conversation_view.add_notice(message.text)

    @property
    def _chat(self) -> ChatScreen | None:
        return next((each for each in self.screen_stack if isinstance(each, ChatScreen)), None)

    def on_loading_screen_loaded(self, message: LoadingScreen.Loaded) -> None:
        """Continue the chat with another model."""
        self.failure = None
        self.run_worker(self._switch.loaded(message.session), group="switch")

    def on_loading_screen_failed(self, message: LoadingScreen.Failed) -> None:
        """Go back to the previous model, or quit; ``run_app`` raises the reason."""
        if self._switch.has_way_back:
            self.run_worker(self._go_back(_sentence(message.error)), group="switch")
            return
        self._fail(message.error)

    def on_loading_screen_cancelled(self) -> None:
        """Go back to the previous model, or quit."""
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

    def on_chat_screen_models_requested(self) -> None:
        """Show the models on this computer."""
        if not isinstance(self.screen, ChatScreen):  # the key was pressed twice
            return
        from llama_cpu.tui.screens.models import ModelScreen  # as the chat screen imports others

        models, precision = self._models, self.plan.precision if self.plan else FORMATS[0]
        screen = ModelScreen(models.find, precision.label, models.kv_int8)
        self.push_screen(screen, self._change_model)

    def on_model_screen_downloads_requested(self) -> None:
        """Show the models to download."""
        from llama_cpu.tui.screens.downloads import DownloadScreen
        from llama_cpu.tui.screens.models import ModelScreen

        if isinstance(models := self.screen, ModelScreen):

            def downloaded(path: Path | None) -> None:
                if path:
                    models.look_again(path)

            self.push_screen(DownloadScreen(self._models.pull), downloaded)

    def _change_model(self, chosen: ChosenModel | None) -> None:
        if chosen and isinstance(self.screen, ChatScreen):
            begin = self._switch.begin(chosen, self.screen)
            self.run_worker(begin, group="choice", exclusive=True)  # the last choice counts

    def on_answer_failed(self, message: AnswerFailed) -> None:
        """Keep the error, so that ``run_app`` can print its traceback."""
        self.answer_errors.append(message.error)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer Textual's own commands and the actions of the present screen."""
        from llama_cpu.tui.screens.figures import FiguresScreen

        yield from super().get_system_commands(screen)
        nodes: dict[Scope, DOMNode] = {Scope.APP: self}
        if isinstance(screen, ChatScreen):
            nodes |= {Scope.CHAT: screen, Scope.INPUT: screen.input}
        elif isinstance(screen, FiguresScreen):
            nodes[Scope.FIGURES] = screen
        for action in ACTIONS:
            if action.in_palette and action.scope in nodes:
                keys = shown(keys_of(action.id, self.keymap))
                run = partial(self.run_action, action.to_run, nodes[action.scope])
                yield SystemCommand(action.label, f"{action.help} ({keys})", run)

    @property
    def fault(self) -> Exception | None:
        """The first unexpected exception of the app itself, which has ended it."""
        error = self._exception
        return error.error if isinstance(error, WorkerFailed) else error  # type: ignore[return-value]

    def panic(self, *renderables: object) -> None:
        """End without drawing anything: ``run_app`` raises the exception."""
        self._close_messages_no_wait()

    def _fatal_error(self) -> None:
        # Textual would draw a traceback with all local variables over the screen.
        self._close_messages_no_wait()

    def close(self) -> None:
        """Wait until the model's thread has stopped, and free the session."""
        self._model_thread.shutdown()
        if self.session:
            self.session.close()

    async def action_interrupt(self) -> None:
        """Stop what the model does; if it does nothing or is being loaded, ask whether to quit.

        Asked again, quit.
        """
        chat = next((each for each in self.screen_stack if isinstance(each, ChatScreen)), None)
        if chat and chat.is_computing and not self.is_leaving:
            chat.action_stop()
        elif self.is_leaving or isinstance(self.screen, QuitQuestion):
            await self.action_quit()
        else:
            self.push_screen(QuitQuestion(), self._quit_if)

    async def _quit_if(self, is_sure: bool | None) -> None:
        if is_sure:
            await self.action_quit()

    async def action_quit(self) -> None:
        """Save the KV cache, then quit; quit at once if asked again.

        A screen that is closed stops the model's work.
        """
        chat = self._chat
        can_save = chat and chat.has_model and not self._switch.is_active
        if self.is_leaving:
            self.exit(EXIT_OK)
        elif chat and can_save and chat.session.has_unsaved_cache:
            from llama_cpu.tui.screens.lens import LensScreen

            for each in self.screen_stack:
                if isinstance(each, LensScreen):
                    each.stop()
            keep = chat.session.save_cache
            leaving = LeavingScreen(chat.stop_work, keep, self._model_thread)
            self.push_screen(leaving, lambda _: self.exit(EXIT_OK))
        else:
            self.exit(EXIT_OK if self.session else EXIT_CANCELLED)


def run_app(app: ChatApp, debug: bool = False) -> int:
    """Run the app until the user quits; return the exit code.

    Raises the exception that kept the model from being loaded, or that ended the app. ``debug``
    prints, in the end, the tracebacks of answers that failed.
    """
    # The model's thread releases the interpreter lock at every operator, which takes 0.05 ms. The
    # screen's thread takes the lock to draw, and by default would keep it for 5 ms each time.
    sys.setswitchinterval(SWITCH_SECONDS)
    show_warning, warnings.showwarning = warnings.showwarning, app.warn_user
    try:
        exit_code = app.run()
    finally:
        app.close()
        warnings.showwarning = show_warning
    if debug:
        for error in app.answer_errors:
            traceback.print_exception(error)
    if failure := app.fault or app.failure:
        raise failure
    return exit_code if exit_code is not None else app.return_code or EXIT_OK


def _with_enter_at_the_end(early: list[events.Event]) -> list[events.Event]:
    """Take a line feed that comes last, before the prompt is there, for Enter.

    Until the app has put the terminal into raw mode, Enter arrives as a line feed, as Ctrl+J does.
    One that is followed by more is a new line, so that several lines stay one message.
    """
    last = early[-1] if early else None
    if isinstance(last, events.Key) and last.key == "ctrl+j":
        return [*early[:-1], events.Key("enter", "\r")]
    return early


def _sentence(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"The model could not be loaded: {type(error).__name__}: {error}"[:500]
