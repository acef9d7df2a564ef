"""The panels beside the conversation: hidden, enlarged, and the warning that the memory is full."""

from typing import TYPE_CHECKING

from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.paging import Paging, PagingWatch, paging_report
from llama_cpu.tui.keys import keys_of, shown
from llama_cpu.tui.screens.figures import FiguresScreen
from llama_cpu.tui.widgets.memory_panel import MemoryPanel
from llama_cpu.tui.widgets.summary import Part
from llama_cpu.weights.formats import format_of, labels, smaller_than

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

HAPPENS = {
    Paging.SWAPPING: "The machine has begun to swap",
    Paging.READING_AGAIN: "The weights are read from the disk again and again",
}
SIGNS = {Paging.SWAPPING: "swapping", Paging.READING_AGAIN: "reading the weights again"}


class Panels:
    """Of one chat screen; what is measured for them is the screen's concern."""

    def __init__(self, screen: "ChatScreen") -> None:
        self._screen = screen
        self._watch = PagingWatch(screen.session.mapped_bytes)
        self._paging: Paging | None = None
        self._has_warned = False

    @property
    def have_room(self) -> bool:
        """Whether the terminal is wide and high enough for them."""
        return not (self._screen.has_class("-narrow") or self._screen.has_class("-short"))

    def place(self) -> None:
        """Show or hide them, as the user chose."""
        self._screen.set_class(not self._screen.app.shows_panels, "-no-panels")  # type: ignore[attr-defined]

    def toggle(self) -> None:
        """Hide them or show them, and remember it; where there is no room, show them enlarged."""
        app = self._screen.app
        if not self._screen.is_active:
            return
        if not self.have_room:
            self.enlarge()
            return
        app.remember_panels(not app.shows_panels)  # type: ignore[attr-defined]
        self.place()

    def enlarge(self) -> None:
        """Everything on a screen of its own."""
        if self._screen.is_active:
            self._screen.app.push_screen(FiguresScreen(self._screen))

    def watch(self, report: MemoryReport) -> None:
        """Warn where the memory no longer suffices: once, and then only by a word at the panel."""
        screen = self._screen
        self._paging = self._watch.observe(paging_report(), report)
        screen.query_one(MemoryPanel).border_subtitle = self.sign
        if self._paging is None or self._has_warned:
            return
        self._has_warned = True
        keys = shown(keys_of("models", screen.app.keymap))  # type: ignore[attr-defined]
        sentence = warning(self._paging, screen.session.precision, keys)
        screen.conversation_view.add_notice(sentence, kind="problem")
        if not screen.is_active:
            screen.app.notify(sentence, severity="warning", timeout=30, markup=False)

    @property
    def sign(self) -> str:
        """What goes on now, in a word or two; nothing as a rule."""
        return SIGNS[self._paging] if self._paging else ""

    def trouble_parts(self) -> list[Part]:
        """The same for the line that stands for the panels."""
        return [(0, self.sign)] if self.sign else []


def warning(paging: Paging, precision: str, keys: str) -> str:
    """What happens and what helps. ``keys``: those that show the models."""
    smaller = " or ".join(labels(smaller_than(format_of(precision))))
    return (
        f"{HAPPENS[paging]}: the model and its KV cache no longer fit in memory, and answers "
        f"become slow. Close other programs, choose a model "
        f"{'as ' + smaller if smaller else 'that is smaller'} ({keys}), or "
        "start again with a smaller context (--max_seq_len)."
    )
