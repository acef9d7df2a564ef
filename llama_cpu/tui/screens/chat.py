"""The chat: wires the prompt, the conversation, the list, the panels and the answers together."""

from collections.abc import Awaitable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult, SystemCommand
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from llama_cpu.system.memory import memory_report
from llama_cpu.tui import about
from llama_cpu.tui.controllers.answering import Answering
from llama_cpu.tui.controllers.cache_work import CacheWork
from llama_cpu.tui.controllers.library import Library
from llama_cpu.tui.controllers.palette import commands
from llama_cpu.tui.controllers.panels import Panels
from llama_cpu.tui.controllers.slash import SlashCommands
from llama_cpu.tui.controllers.turns import Turns
from llama_cpu.tui.keys import key
from llama_cpu.tui.screens.lens import show_lens
from llama_cpu.tui.screens.settings import SettingsScreen
from llama_cpu.tui.widgets.conversation_view import ConversationView
from llama_cpu.tui.widgets.find_bar import FindBar
from llama_cpu.tui.widgets.input_history import InputHistory
from llama_cpu.tui.widgets.memory_panel import MemoryPanel, model_memory
from llama_cpu.tui.widgets.message_area import MessageArea
from llama_cpu.tui.widgets.message_input import MessageInput
from llama_cpu.tui.widgets.message_views import UserMessage
from llama_cpu.tui.widgets.sidebar import Sidebar
from llama_cpu.tui.widgets.summary import Summary, answer_parts, memory_parts
from llama_cpu.tui.widgets.timing_panel import TimingPanel

if TYPE_CHECKING:
    from llama_cpu.chat.conversation import Conversation
    from llama_cpu.chat.session import ChatSession

SETTINGS_CHANGED = "The settings count from the next answer on"
ROOM_FOR_SIDEBAR = 120  # columns; with fewer it lies over the conversation, and only when asked for


@dataclass
class ScreenState:
    """What goes from one chat screen to the next: another model's, with the same conversation."""

    draft: str
    memory: InputHistory
    notice: str = ""


class ChatScreen(Screen[None]):
    """One conversation with one model."""

    # The panels need room beside the conversation; otherwise one line says what matters most.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (ROOM_FOR_SIDEBAR, "-roomy")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]
    BINDINGS = [
        key("escape", "stop", "Stop", key_display="Esc", about="stop the answer, keep it so far"),
        key("ctrl+n", "new_conversation", "New", about="a new conversation"),
        key("ctrl+r", "regenerate", "Again", about="answer the last message once more"),
        key("ctrl+b", "sidebar", "List", about="the list of conversations"),
        key("ctrl+g", "continue_answer", about="continue a stopped answer"),
        key("ctrl+f", "find", about="search within the conversation"),
        key("f2", "settings", about="system prompt, temperature and so on"),
        key("f3", "models", about="the models on this computer"),
        key("f4", "lens", about="token lens: how probable a token was"),
        key("f6", "panels", about="hide the panels, or show them"),
        key("f7", "figures", about="times and memory on the whole screen"),
        key("alt+left", "alternative(-1)", about="the answer given before", id="earlier_answer"),
        key("alt+right", "alternative(1)", about="the answer given after", id="later_answer"),
        key("alt+up", "step(-1)", about="choose a message to edit", id="message_before"),
        key("alt+down", "step(1)", about="choose the message after", id="message_after"),
        key("alt+d", "delete_turn", about="delete the last turn"),
        key("alt+c", "copy_answer", about="copy the last answer"),
        key("alt+k", "copy_code", about="copy code; again: the block before"),
        key("pageup", "scroll(-1)", about="scroll up", id="scroll_up"),
        key("pagedown", "scroll(1)", about="scroll down", id="scroll_down"),
    ]

    class ModelsWanted(Message):
        """The user wants to choose another model."""

    class AnswerFailed(Message):
        """An answer raised what it should not have."""

        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

    def __init__(
        self,
        session: "ChatSession",
        is_demo: bool,
        model_thread: Executor,
        carried: "ScreenState | None" = None,
    ) -> None:
        super().__init__()
        self._carried = carried
        self.session = session
        self._is_demo = is_demo
        self._report = memory_report()
        self._has_toggled = False  # the user has shown or hidden the list
        self.answering = Answering(self, model_thread)
        self.cache_work = CacheWork(self, model_thread)
        self.turns = Turns(self)
        self.library = Library(self)
        self.slash = SlashCommands(self)
        self.panels = Panels(self)

    def compose(self) -> ComposeResult:
        yield Static(about.title(self.session), markup=False, id="about")
        with Horizontal(id="main"):
            yield Sidebar(self.conversation)
            with Vertical(id="left"):
                yield ConversationView()
                yield Summary()
                yield FindBar(self)
                yield MessageArea(lambda text: self.session.count_tokens(text))
            with Vertical(id="side"):
                yield TimingPanel()
                yield MemoryPanel()
        yield Footer()

    async def on_mount(self) -> None:
        """Show what is there already and begin to measure."""
        if self.app.return_value is not None:  # quit just now: the widgets may be gone already
            return
        if self._is_demo:
            self.conversation_view.add_notice(about.demo_notice(), kind="demo")
        self.cache_work.begin()
        await self.answering.show()
        self.answering.say_if_cut()
        if self._carried:
            self.carry(self._carried)
        self.prompt.focus()
        self.panels.place()
        self.show_timings()
        self._show_memory()
        # Apart from the answer's own updates: together they would have the whole screen drawn.
        self.set_interval(0.5, self._refresh_timings)
        self.set_interval(1, self._show_memory)

    def carry(self, carried: "ScreenState") -> None:
        """Go on with what was in the prompt."""
        self.prompt.memory = carried.memory
        self.prompt.put_back_draft(carried.draft)
        self.conversation_view.add_notice(carried.notice)

    @property
    def conversation(self) -> "Conversation":
        """The conversation."""
        return self.session.conversation

    @property
    def conversation_view(self) -> ConversationView:
        """What shows it."""
        return self.query_one(ConversationView)

    @property
    def prompt(self) -> MessageInput:
        """Where the user writes."""
        return self.query_one(MessageInput)

    @property
    def sidebar(self) -> Sidebar:
        """The list of conversations."""
        return self.query_one(Sidebar)

    def conversation_changed(self) -> None:
        """The list and the title line may have to show something else."""
        self.query_one("#about", Static).update(about.title(self.session), layout=False)
        if self.sidebar.display:
            self.sidebar.show()
        else:
            self._place_sidebar()

    # What the user does. What takes a moment is a worker, so that the screen stays awake.

    @on(MessageInput.Sent)
    def _send(self) -> None:
        self._run(self.turns.send())

    @on(MessageInput.Command)
    def _run_command(self, event: MessageInput.Command) -> None:
        self._run(self.slash.run(event.text))

    def action_find(self) -> None:
        self.query_one(FindBar).open()

    @on(FindBar.Closed)
    def _leave_find(self) -> None:
        self.prompt.focus()

    def action_models(self) -> None:
        """Choose another model."""
        if self.is_active:
            self.post_message(self.ModelsWanted())

    def action_settings(self) -> None:
        """Change how the next answers are given."""
        if self.is_active:  # the key may have been pressed twice
            session = self.session
            screen = SettingsScreen(session.settings, session.context_size, session.apply)
            self.app.push_screen(screen, self._settings_left)

    def _settings_left(self, applied: bool | None) -> None:
        if applied:
            self.settings_changed()

    def settings_changed(self) -> None:
        """Show it, and store it with the conversation."""
        self.prompt.say(SETTINGS_CHANGED)
        self._run(self.library.keep_settings())

    def action_panels(self) -> None:
        self.panels.toggle()

    def action_figures(self) -> None:
        self.panels.enlarge()

    def action_stop(self) -> None:
        """Stop the answer and keep what was written, or leave a message as it was."""
        self.cache_work.stop()
        if self.answering.is_answering:
            self.answering.stop()
        else:
            self.turns.cancel_editing()

    def action_new_conversation(self) -> None:
        self._run(self.library.begin_anew())

    def action_regenerate(self) -> None:
        self._run(self.turns.regenerate())

    def action_continue_answer(self) -> None:
        self._run(self.turns.continue_answer())

    def action_lens(self) -> None:
        show_lens(self)

    def action_alternative(self, step: int) -> None:
        self._run(self.turns.choose_alternative(step))

    def action_step(self, step: int) -> None:
        self._run(self.turns.step(step))

    def action_edit_chosen(self) -> None:
        self.turns.edit()

    def action_leave_chosen(self) -> None:
        self.prompt.focus()

    def action_delete_turn(self) -> None:
        self._run(self.turns.delete_turn())

    def action_copy_answer(self) -> None:
        self.turns.copy_answer()

    def action_copy_code(self) -> None:
        self.turns.copy_code()

    def action_scroll(self, pages: int) -> None:
        """Scroll the conversation by a page."""
        scroll = self.conversation_view.scroll_page_down
        if pages < 0:
            scroll = self.conversation_view.scroll_page_up
        scroll(animate=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Esc is dimmed in the footer while there is nothing to stop."""
        if action == "stop" and self._esc_is_elsewhere:
            return False
        if action == "settings" and self.sidebar.has_focus_within:  # F2 gives a title there
            return False
        is_at_work = self.answering.is_answering or self.cache_work.is_active
        if action == "stop" and not is_at_work and not self.turns.is_editing:
            return None
        return True

    @property
    def _esc_is_elsewhere(self) -> bool:
        """Whether Esc means what has the focus, or what is open above the prompt."""
        if not self.query(MessageArea):  # quit just now
            return False
        is_open = self.query_one(MessageArea).is_completing or self.query_one(FindBar).display
        return is_open or isinstance(self.focused, UserMessage) or self.sidebar.has_focus_within

    def commands(self) -> Iterable[SystemCommand]:
        """The keys' actions, for the command palette."""
        yield from commands(self)

    def _run(self, work: Awaitable[None]) -> None:
        self.run_worker(work, group="command")

    # The list of conversations

    def action_sidebar(self) -> None:
        """Go to the list, which is shown; from there, hide it."""
        self._has_toggled = True
        if self.sidebar.display and self.sidebar.has_focus_within:
            self.sidebar.display = False
            self.prompt.focus()
        else:
            self.sidebar.display = True
            self.sidebar.show()
            self.sidebar.enter()

    @on(Sidebar.Left)
    def leave_sidebar(self) -> None:
        """Back to the prompt; a list over the conversation goes."""
        if self.size.width < ROOM_FOR_SIDEBAR:
            self.sidebar.display = self._has_toggled = False
        self.prompt.focus()

    @on(Sidebar.Wanted)
    def _do_with_conversation(self, event: Sidebar.Wanted) -> None:
        verbs = {
            "open": self.library.open,
            "rename": self.library.rename,
            "duplicate": self.library.duplicate,
            "delete": self.library.delete,
        }
        self._run(verbs[event.verb](event.conversation))

    def on_resize(self, event: events.Resize) -> None:
        """There may be room for the list now, or no longer."""
        if not self.query(Sidebar):  # quit just now
            return
        if event.size.width < ROOM_FOR_SIDEBAR and not self.sidebar.has_focus_within:
            self.sidebar.display = False
            self._has_toggled = False
        self._place_sidebar()

    def _place_sidebar(self) -> None:
        if not self._has_toggled and self.size.width >= ROOM_FOR_SIDEBAR:
            self.sidebar.show_if_useful()

    # What is measured

    @property
    def is_replaced(self) -> bool:
        """Whether another model is on its way into this one's place, which may be gone."""
        return self.app.session is not self.session  # type: ignore[attr-defined]

    def _refresh_timings(self) -> None:
        if self.answering.is_answering and not self.is_replaced:
            self.show_timings()

    def show_timings(self) -> None:
        """The figures of the answer and of the memory as they are now."""
        session = self.session
        panel = self.query_one(TimingPanel)
        panel.show(self.answering.timings, session.context_used, session.context_size)
        self._show_summary()

    def _show_memory(self) -> None:
        if self.is_replaced:
            return
        self._report = memory_report()
        self.query_one(MemoryPanel).show(self._report, model_memory(self.session, self._report))
        self.panels.watch(self._report)
        self._show_summary()

    def _show_summary(self) -> None:
        session = self.session
        memory = memory_parts(self._report, session.context_used, session.context_size)
        parts = answer_parts(self.answering.timings) + memory
        self.query_one(Summary).show(self.panels.trouble_parts() + parts)
