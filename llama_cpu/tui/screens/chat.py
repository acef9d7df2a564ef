"""The chat screen: connects the input, the conversation, the list, the panels and the answers.

The screens that are opened from it are imported when they are, so that the first frame comes soon.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from llama_cpu.chat.conversation import Conversation
from llama_cpu.chat.session_protocol import PlanModel, Session
from llama_cpu.errors import UserError
from llama_cpu.history.rows import StoredMessage
from llama_cpu.system.memory import memory_report
from llama_cpu.system.text import printable
from llama_cpu.tui import about
from llama_cpu.tui.actions import Action, Scope, bindings
from llama_cpu.tui.attachments import Attachments
from llama_cpu.tui.controllers.answering import Answering
from llama_cpu.tui.controllers.cache_work import CacheWork
from llama_cpu.tui.controllers.conversation_actions import ConversationActions
from llama_cpu.tui.controllers.lens import TokenLens
from llama_cpu.tui.controllers.other_windows import WATCH_SECONDS, OtherWindows
from llama_cpu.tui.controllers.panels import Panels
from llama_cpu.tui.controllers.slash import SlashCommands
from llama_cpu.tui.controllers.turn_actions import LOADING, NO_MODEL, TurnActions
from llama_cpu.tui.controllers.view import Branch, ScreenState
from llama_cpu.tui.presets import Presets, choices, in_use
from llama_cpu.tui.screens.ask import Ask
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.widgets.conversation_view import ConversationView
from llama_cpu.tui.widgets.find_bar import FindBar
from llama_cpu.tui.widgets.loading_bar import LoadingBar
from llama_cpu.tui.widgets.memory_panel import NO_MODEL_MEMORY, MemoryPanel, model_memory
from llama_cpu.tui.widgets.message_area import MessageArea
from llama_cpu.tui.widgets.message_input import MessageInput
from llama_cpu.tui.widgets.sidebar import ROOM_FOR_SIDEBAR, Sidebar
from llama_cpu.tui.widgets.summary import Summary, answer_parts, memory_parts
from llama_cpu.tui.widgets.timing_panel import TimingPanel

SETTINGS_CHANGED = "The settings apply from the next answer on"


class ChatScreen(Screen[None]):
    """One conversation with one model, which may still be loading."""

    # The panels need room beside the conversation; otherwise one line has the main figures.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (ROOM_FOR_SIDEBAR, "-roomy")]
    VERTICAL_BREAKPOINTS = [(0, "-low"), (10, "-short"), (30, "-tall")]
    BINDINGS = bindings(Scope.CHAT)
    # Else it would be the first field, that of the list, and the footer would show the list's keys.
    AUTO_FOCUS = "MessageInput"

    class Ready(Message):
        """The prompt has the focus, or gets it at once."""

    class ModelsRequested(Message):
        """The user wants to choose another model."""

    class PanelsToggled(Message):
        """The user has shown or hidden the panels."""

        def __init__(self, shown: bool) -> None:
            super().__init__()
            self.shown = shown

    def __init__(
        self,
        conversation: Conversation,
        model: Session | PlanModel,
        is_demo: bool,
        model_thread: Executor,
        keymap: Mapping[str, str],
        presets: Presets,
        shows_panels: bool = True,
        state: ScreenState | None = None,
    ) -> None:
        """Prepare the screen.

        ``model``: the session with the loaded model, or what plans it; then the screen loads it.
        ``state``: what the chat screen of the previous model passed on.
        """
        super().__init__()
        self.conversation = conversation
        self._session = None if callable(model) else model
        self._loading_bar = LoadingBar(model, model_thread) if callable(model) else None
        self._did_begin = False  # something was sent or opened
        self.presets = presets
        self.attachments = state.attachments if state else Attachments()
        self.is_retired = False  # the model is about to be freed and must not be queried
        self._state = state
        self._is_demo = is_demo
        self._model_thread = model_thread
        self._keymap = keymap
        self._report = memory_report()
        self.set_class(not shows_panels, "-no-panels")
        self.answering = Answering(self, model_thread)
        self.cache_work = CacheWork(self, model_thread)
        self.turns = TurnActions(self, self.answering)
        self.library = ConversationActions(self, self.answering, self.turns, self.cache_work)
        self._other_windows = OtherWindows(self, self.answering, self.turns)
        self._lens = TokenLens(self, self.answering)
        self._slash = SlashCommands(self)
        self._panels = Panels(self, shows_panels, keymap)

    def compose(self) -> ComposeResult:
        yield Static(self._title, markup=False, id="about")
        with Horizontal(id="main"):
            yield Sidebar(self.conversation)
            with Vertical(id="left"):
                yield (conversation_view := ConversationView())
                yield Summary()
                yield FindBar(conversation_view)
                if self._loading_bar:
                    yield self._loading_bar
                yield MessageArea(self._count_tokens, self._keymap)
            with Vertical(id="side"):
                yield TimingPanel()
                yield MemoryPanel()
        yield Footer()

    async def on_mount(self) -> None:
        """Show the conversation and start to measure."""
        if self.app.return_value is not None:  # the app has quit: the widgets may be gone
            return
        if self._is_demo and not self.conversation.line:
            self.conversation_view.add_notice(about.demo_notice(self._keymap), kind="demo")
        self.input.is_file_line = self.attachments.is_line
        self.cache_work.begin()
        await self.answering.show()
        self.answering.say_if_cut()
        if self._state:
            self.restore(self._state)
        self.input.focus()
        self.post_message(self.Ready())
        self.show_timings()
        self._show_memory()
        # Separate from the answer's own updates: together, they would redraw the whole screen.
        self.set_interval(0.5, self._refresh_timings)
        self.set_interval(1, self._show_memory)
        if self.conversation.history.file:
            self.set_interval(WATCH_SECONDS, self._other_windows.look)

    @property
    def conversation_view(self) -> ConversationView:
        return self.query_one(ConversationView)

    @property
    def input(self) -> MessageInput:
        return self.query_one(MessageInput)

    @property
    def sidebar(self) -> Sidebar:
        return self.query_one(Sidebar)

    # The model

    @property
    def session(self) -> Session:
        """The conversation with the loaded model. Raises UserError if none is loaded."""
        if self._session is None:
            raise UserError(f"{LOADING if self.is_loading else NO_MODEL}.")
        return self._session

    @property
    def has_model(self) -> bool:
        """Whether a model is loaded."""
        return self._session is not None

    @property
    def is_loading(self) -> bool:
        """Whether the model of the start is being loaded."""
        return self._loading_bar is not None

    @property
    def is_untouched(self) -> bool:
        """Whether closing the app would lose nothing that the user typed or looks at."""
        return not (self.input.text or self._did_begin or self.answering.is_busy) and self.is_active

    async def begin_with(self, session: Session) -> None:
        """Go on with the model that was loaded, and answer the message that waits for it."""
        if self.app.return_value is not None:  # the app has quit: the widgets may be gone
            return
        self._session = session
        await self._remove_loading_bar()
        self.conversation_changed()
        self.cache_work.begin()
        self.show_timings()
        self._show_memory()
        await self.answering.begin_waiting()

    async def give_up(self, problem: str) -> None:
        """Go on without a model, as it was not loaded; the message that waits is taken back."""
        await self._remove_loading_bar()
        self.conversation_changed()
        await self.answering.take_back()
        self.conversation_view.add_notice(problem, kind="problem")

    async def _remove_loading_bar(self) -> None:
        bar, self._loading_bar = self._loading_bar, None
        if bar and bar.is_attached:
            await bar.remove()
        self.input.unsay(LOADING)
        self.refresh_bindings()

    @property
    def _title(self) -> str:
        if self._session is None:
            return about.LOADING if self.is_loading else about.NO_MODEL
        return about.title(self._session)

    def _count_tokens(self, message: str) -> int:
        if self._session is None:
            return 0
        return self._session.count_tokens(self.attachments.expand(message))

    # Switching to another model

    async def stop_answering(self) -> None:
        """Stop the answer and wait until it has ended."""
        await self.answering.stop_and_wait()

    async def stop_work(self) -> None:
        """Stop everything that the model does, and wait until the answer has ended."""
        self.cache_work.stop()
        await self.stop_answering()

    def put_away(self) -> ScreenState:
        """Empty the input and return what the next chat screen needs."""
        self.turns.cancel_editing()
        return ScreenState(self.input.lay_aside(), self.input.input_history, self.attachments)

    def restore(self, state: ScreenState) -> None:
        """Restore the input, and show the notice."""
        self.input.input_history = state.history
        self.input.put_back_draft(state.draft)
        self.conversation_view.add_notice(state.notice)

    def retire(self) -> None:
        """Stop measuring, as the model is about to be freed."""
        self.is_retired = True

    # Requests of the controllers (ChatView)

    def conversation_changed(self) -> None:
        """Update the title line and the list."""
        if not self.query("#about"):  # the app has just quit
            return
        self.query_one("#about", Static).update(self._title, layout=False)
        self.sidebar.refresh_list()

    def settings_changed(self) -> None:
        """Say that the settings changed, and store them with the conversation."""
        self.input.say(SETTINGS_CHANGED)
        self._run(self.library.save_settings())

    def show_paging(self, sign: str) -> None:
        """Show a word about paging at the memory panel."""
        self.query_one(MemoryPanel).border_subtitle = sign

    @property
    def has_room_for_panels(self) -> bool:
        """Whether the terminal is wide and high enough."""
        return not any(map(self.has_class, ("-narrow", "-short", "-low")))

    def show_panels(self, shown: bool) -> None:
        """Show or hide the panels, now and after the next start."""
        self.set_class(not shown, "-no-panels")
        self.post_message(self.PanelsToggled(shown))

    def show_figures(self) -> None:
        """Show times and memory full screen."""
        if self.is_active and self.turns.says_has_model():
            from llama_cpu.tui.screens.figures import FiguresScreen, FiguresSource

            source = FiguresSource(
                lambda: self.answering.timings_now,
                lambda: self._panels.sign,
                lambda: self.is_retired,
            )
            self.app.push_screen(FiguresScreen(self.session, source))

    def show_lens(
        self, answers: Sequence[StoredMessage], place: int, on_branch: Callable[[Branch], None]
    ) -> None:
        """Open the token lens at one of the answers."""
        from llama_cpu.tui.screens.lens import LensScreen

        lens = LensScreen(self.session, answers, place, self._model_thread, self._keymap)
        self.app.push_screen(lens, lambda branch: on_branch(branch) if branch else None)

    def tell(self, text: str, kind: str = "note") -> None:
        """Show a text above the prompt, in place of the one before; an empty one for none."""
        self.query_one(MessageArea).tell(text, kind)

    def warn(self, sentence: str, seconds: float = 5) -> None:
        """Show a sentence over whatever screen is on top."""
        self.notify(printable(sentence), severity="warning", timeout=seconds, markup=False)

    def copy_to_clipboard(self, text: str) -> None:
        """Ask the terminal to copy a text."""
        self.app.copy_to_clipboard(text)

    async def confirm(self, question: str, yes: str, no: str = "Keep") -> bool:
        """Ask a question with two answers."""
        return await self.app.push_screen_wait(Confirm(question, yes=yes, no=no))

    async def ask_for_line(self, question: str, text: str) -> str | None:
        """Ask for a line of text; None if the user cancelled."""
        return await self.app.push_screen_wait(Ask(question, text))

    async def perform(self, action: Action) -> None:
        """Perform an action of the chat or of the app."""
        node = self.app if action.scope is Scope.APP else self
        await self.app.run_action(action.to_run, node)

    # Actions. Those that take a moment run in a worker, so that the screen stays responsive.

    def _run(self, work: Awaitable[None]) -> None:
        self.run_worker(work, group="command")

    @on(MessageInput.Sent)
    def _send(self) -> None:
        self._did_begin = True
        self.tell("")
        self._run(self.turns.send())

    @on(MessageInput.Command)
    def _run_command(self, event: MessageInput.Command) -> None:
        self._run(self._slash.run(event.text))

    def action_find(self) -> None:
        self.query_one(FindBar).open()

    @on(FindBar.Closed)
    def _leave_find(self) -> None:
        self.input.focus()

    def action_models(self) -> None:
        if self.is_loading:
            self.input.say(LOADING)
        elif self.is_active:
            self.post_message(self.ModelsRequested())

    def action_settings(self) -> None:
        # The key may have been pressed twice.
        if self.is_active and self.turns.says_has_model():
            from llama_cpu.tui.screens.settings import SettingsScreen

            session = self.session
            screen = SettingsScreen(
                session.settings,
                session.context_size,
                session.apply,
                choices(session, self.presets.all),
                in_use(session.settings, self.presets.all),
            )
            self.app.push_screen(screen, lambda done: self.settings_changed() if done else None)

    def action_panels(self) -> None:
        self._panels.toggle()

    def action_figures(self) -> None:
        self.show_figures()

    def action_stop(self) -> None:
        """Stop the answer and keep what was written; else cancel editing; else stop loading."""
        self.cache_work.stop()
        if self.answering.is_answering or self.answering.is_waiting:
            self.answering.stop()
        elif self.turns.is_editing:
            self.turns.cancel_editing()
        elif self._loading_bar:
            self._loading_bar.cancel()

    def action_new_conversation(self) -> None:
        self._run(self.library.begin_anew())

    def action_regenerate(self) -> None:
        self._run(self.turns.regenerate())

    def action_continue_answer(self) -> None:
        self._run(self.turns.continue_answer())

    def action_lens(self) -> None:
        if self.turns.says_has_model():
            self._lens.open()

    def action_alternative(self, step: int) -> None:
        self._run(self.turns.choose_alternative(step))

    def action_step(self, step: int) -> None:
        self._run(self.turns.step(step))

    def action_edit_chosen(self) -> None:
        self.turns.edit()

    def action_leave_chosen(self) -> None:
        self.input.focus()

    def action_delete_turn(self) -> None:
        self._run(self.turns.delete_turn())

    def action_pin_this(self) -> None:
        self._run(self.library.pin_present())

    def action_copy_answer(self) -> None:
        self.turns.copy_answer()

    def action_copy_code(self) -> None:
        self.turns.copy_code()

    def action_thinking(self) -> None:
        self.conversation_view.toggle_thinking()

    def action_scroll(self, pages: int) -> None:
        self.conversation_view.scroll_pages(pages)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Dim Esc in the footer while there is nothing to stop."""
        if action == "stop" and self._esc_is_elsewhere:
            return False
        if action == "settings" and self.sidebar.has_focus_within:  # F2 renames there
            return False
        if action == "stop" and not self.is_at_work and not self.turns.is_editing:
            return None
        return True

    @property
    def is_at_work(self) -> bool:
        """Whether there is something to stop: an answer, a load, or work on the KV cache."""
        return self.is_computing or self.is_loading

    @property
    def is_computing(self) -> bool:
        """Whether there is something to stop other than a load."""
        is_answering = self.answering.is_answering or self.answering.is_waiting
        return is_answering or self.cache_work.is_active

    @property
    def _esc_is_elsewhere(self) -> bool:
        """Whether Esc belongs to the focused widget, or to a menu or search above the input."""
        if not self.query(MessageArea):  # the app has just quit
            return False
        is_open = self.query_one(MessageArea).is_completing or self.query_one(FindBar).display
        is_chosen = self.conversation_view.chosen is not None
        return is_open or is_chosen or self.sidebar.has_focus_within

    # The list of conversations

    def action_sidebar(self) -> None:
        if not self.sidebar.toggle():
            self.input.focus()

    @on(Sidebar.Left)
    def leave_sidebar(self) -> None:
        """Go back to the input, and hide the list if it covers the conversation."""
        self.sidebar.step_aside()
        self.input.focus()

    @on(Sidebar.Requested)
    def _do_with_conversation(self, event: Sidebar.Requested) -> None:
        self._did_begin = True
        self._run(self.library.perform(event.verb, event.conversation))

    def on_resize(self, event: events.Resize) -> None:
        """Show or hide the list as the width allows."""
        if self.query(Sidebar):  # otherwise the app has just quit
            self.sidebar.fit(event.size.width)

    # Figures

    def _refresh_timings(self) -> None:
        if self.answering.is_answering and not self.is_retired:
            self.show_timings()

    def show_timings(self) -> None:
        """Show the present figures of the answer and of the memory."""
        panel = self.query_one(TimingPanel)
        panel.show(self.answering.timings, *self._filling)
        self._show_summary()

    @property
    def _filling(self) -> tuple[int, int]:
        """Tokens in the KV cache, and tokens that it can hold; 0 without a model.

        The cache of the conversation before is no use of a new one.
        """
        session = self._session
        used = session.context_used if session and self.conversation.line else 0
        return used, session.context_size if session else 0

    def _show_memory(self) -> None:
        if self.is_retired:
            return
        self._report = memory_report()
        session = self._session
        model = model_memory(session, self._report) if session else NO_MODEL_MEMORY
        self.query_one(MemoryPanel).show(self._report, model)
        if session:
            self._panels.watch(self._report)
        self._show_summary()

    def _show_summary(self) -> None:
        sign = self._panels.sign
        paging = [(0, sign)] if sign else []
        memory = memory_parts(self._report, *self._filling)
        parts = answer_parts(self.answering.timings) + memory
        self.query_one(Summary).show(paging + parts)
