"""The details of one token, beside the answer."""

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from llama_cpu.tui.number_format import MISSING, bar, drawn, duration, lines, row
from llama_cpu.tui.widgets.lens_layout import escaped

if TYPE_CHECKING:  # imports PyTorch
    from llama_cpu.chat.lens import LensToken

HINT = (
    "Enter, a click or the keys 1 to 5 branch the conversation here; it goes on with the "
    "alternative.\n\nThe probabilities are the model's own: at temperature 1, before top-p and "
    "other filters."
)
_BAR = 8


class LensDetails(Container):
    """The figures of a token, and the most probable others at its place, to choose from."""

    class Chosen(Message):
        """The user chose an alternative; ``number`` counts from 0."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def compose(self) -> ComposeResult:
        yield Static(id="token", markup=False)
        with Container(id="others"):
            yield Static("The other tokens, most probable first:", markup=False)
            yield OptionList(markup=False)
            yield Static(HINT, id="hint", markup=False)

    @property
    def others(self) -> OptionList:
        """The alternatives."""
        return self.query_one(OptionList)

    def show(self, tokens: "list[LensToken]", place: int | None, usual: float | None) -> None:
        """Show the token at an index. ``usual``: the median time of a token."""
        others = self.others
        if place is None:
            self.query_one("#token", Static).update("")
            others.clear_options()
            return
        token = tokens[place]
        self.query_one("#token", Static).update(figures(token, place, len(tokens), usual))
        chosen = others.highlighted
        others.clear_options()
        others.add_options([Option(line) for line in alternatives(token)])
        others.highlighted = chosen if chosen is not None else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Post the alternative that was chosen."""
        event.stop()
        self.post_message(self.Chosen(event.option_index))


def figures(token: "LensToken", place: int, count: int, usual: float | None) -> Content:
    """Format the figures of a token."""
    return lines(
        row("Token", f"{place + 1:,} of {count:,}"),
        row("Text", escaped(token.text)[:26]),
        row("Id", str(token.id)),
        row("Probability", percent(token.probability)),
        drawn(bar(token.probability, 32)),
        row("Logarithm", f"{token.logprob:.3f}"),
        row("Rank", "the most probable" if token.rank == 1 else f"{token.rank:,}"),
        row("Time", _time(token.seconds, usual if place else None)),
    )


def alternatives(token: "LensToken") -> list[Content]:
    """Format one line for each alternative."""
    shown = []
    for number, other in enumerate(token.alternatives, start=1):
        probability = other.probability
        figure = f"{number} {percent(probability):>7} {bar(probability, _BAR)} "
        text = "the end" if other.ends else escaped(other.text)
        shown.append(Content.assemble((figure, "$foreground 65%"), text))
    return shown


def percent(probability: float) -> str:
    """Format a probability: ``98.2%``, ``0.03%``, ``<0.01%``."""
    value = probability * 100
    if value < 0.01:
        return "<0.01%"
    return f"{value:.2f}%" if value < 1 else f"{value:.1f}%"


def _time(seconds: float | None, usual: float | None) -> str:
    """``usual`` None: no comparison, as for the first token, which needed no pass of its own."""
    if seconds is None or not usual:
        return MISSING if seconds is None else duration(seconds)
    if seconds < usual / 20:
        return f"{duration(seconds)}, less than 0.1x"
    return f"{duration(seconds)}, {seconds / usual:.1f}x the usual"
