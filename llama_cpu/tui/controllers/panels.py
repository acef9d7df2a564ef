"""The panels beside the conversation, and the warning that memory is running out."""

from collections.abc import Mapping

from llama_cpu.system.memory import MemoryReport
from llama_cpu.system.paging import Paging, PagingWatch, paging_report
from llama_cpu.tui.controllers.view import ChatView
from llama_cpu.tui.user_keys import keys_of, shown
from llama_cpu.weights.formats import format_of, labels, smaller_than

HAPPENS = {
    Paging.SWAPPING: "The machine has begun to swap",
    Paging.READING_AGAIN: "The weights are read from the disk again and again",
}
SIGNS = {Paging.SWAPPING: "swapping", Paging.READING_AGAIN: "rereading the weights"}


class Panels:
    """Shows and hides the panels of one chat screen, and watches paging."""

    def __init__(self, view: ChatView, are_shown: bool, keymap: Mapping[str, str]) -> None:
        self._view = view
        self._are_shown = are_shown
        self._keymap = keymap
        self._watch: PagingWatch | None = None  # from the first report with a model on
        self._paging: Paging | None = None
        self._has_warned = False

    def toggle(self) -> None:
        """Show or hide the panels; if there is no room for them, show the figures full screen."""
        if not self._view.is_active:
            return
        if not self._view.has_room_for_panels:
            self._view.show_figures()
            return
        self._are_shown = not self._are_shown
        self._view.show_panels(self._are_shown)

    def watch(self, report: MemoryReport) -> None:
        """Warn once when memory no longer suffices; after that, show only a sign."""
        view = self._view
        self._watch = self._watch or PagingWatch(view.session.mapped_bytes)
        self._paging = self._watch.observe(paging_report(), report)
        view.show_paging(self.sign)
        if self._paging is None or self._has_warned:
            return
        self._has_warned = True
        keys = shown(keys_of("models", self._keymap))
        sentence = warning(self._paging, view.session.precision, keys)
        view.conversation_view.add_notice(sentence, kind="problem")
        if not view.is_active:
            view.warn(sentence, seconds=30)

    @property
    def sign(self) -> str:
        """The present kind of paging, in a word or two; empty if there is none."""
        return SIGNS[self._paging] if self._paging else ""


def warning(paging: Paging, precision: str, keys: str) -> str:
    """Say what happens and what helps. ``keys``: the keys that show the models."""
    smaller = " or ".join(labels(smaller_than(format_of(precision))))
    return (
        f"{HAPPENS[paging]}: the model and its KV cache no longer fit in memory, and answers "
        f"become slow. Close other programs, choose a model "
        f"{'as ' + smaller if smaller else 'that is smaller'} ({keys}), or "
        "start again with a smaller context (--max_seq_len)."
    )
