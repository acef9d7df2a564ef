"""The settings of the conversation; each value is checked as it is typed."""

from collections.abc import Callable, Mapping
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Button, Input, Select, Static, TextArea

from llama_cpu.errors import UserError
from llama_cpu.settings.generation_settings import SETTINGS, Range, Settings
from llama_cpu.system.text import printable
from llama_cpu.tui.actions import Scope, bindings
from llama_cpu.tui.widgets.fields import LineField, TextField

LABELS = {"system": "system prompt", "max_gen_len": "answer length"}
PRESET = "fills in the fields below; /preset save NAME keeps the settings of a conversation"
# The KV cache of a loaded model has a fixed size.
CONTEXT = "to change it, start again with --max_seq_len or set it in config.toml"


class SettingsScreen(ModalScreen[bool]):
    """Edits the settings and passes them to ``apply``, whose UserError is shown.

    The result says whether they were applied.
    """

    BINDINGS = bindings(Scope.SETTINGS)

    def __init__(
        self,
        settings: Settings,
        context_size: int,
        apply: Callable[[Settings], None],
        presets: Mapping[str, Settings],
        preset: str = "",
    ) -> None:
        """``presets``: all settings of each preset; choosing one fills in the fields.

        ``preset``: the one in use; "": none.
        """
        super().__init__()
        self._presets = presets
        self._preset = preset
        self._settings = settings
        self._context_size = context_size
        self._apply = apply

    def compose(self) -> ComposeResult:
        with Vertical(id="settings"):
            with VerticalScroll(can_focus=False):
                if self._presets:
                    with Horizontal(classes="row"):
                        yield Static("preset", classes="label")
                        names = [(name, name) for name in self._presets]
                        yield Select(names, prompt="(none)", compact=True, id="preset")
                    yield Static(PRESET, markup=False, classes="about")
                for name, value in self._settings.as_dict().items():
                    yield from self._row(name, value)
                with Horizontal(classes="row"):
                    yield Static("context", classes="label")
                    yield Static(f"{self._context_size:,} tokens")
                yield Static(CONTEXT, markup=False, classes="about")
            yield Static("", markup=False, id="problem")
            with Horizontal():
                yield Button("Cancel (Esc)", id="cancel")
                yield Button("Apply (Ctrl+S)", id="apply", variant="primary")

    def on_mount(self) -> None:
        """Show the preset in use, without filling in its values again."""
        if self._preset:
            with self.prevent(Select.Changed):
                self.query_one("#preset", Select).value = self._preset

    def _row(self, name: str, value: Any) -> ComposeResult:
        from llama_cpu.chat.templates import NAMED_TEMPLATES

        allowed = SETTINGS[name]
        with Horizontal(classes="row"):
            yield Static(LABELS.get(name, name.replace("_", " ")), classes="label")
            if name == "system":
                text = TextField(value, tab_behavior="focus", compact=True, id=name)
                text.cursor_blink = False
                yield text
            else:
                suggester = SuggestFromList(NAMED_TEMPLATES) if name == "template" else None
                field = LineField(_shown(value), suggester=suggester, compact=True, id=name)
                field.cursor_blink = False
                yield field
        yield Static(line_about(allowed), markup=False, classes="about", id=f"about_{name}")

    @on(Select.Changed)
    def _chosen(self, event: Select.Changed) -> None:
        if event.value in self._presets:
            values = self._presets[str(event.value)].as_dict()
            self.query_one("#system", TextArea).load_text(values.pop("system"))
            for name, value in values.items():
                self.query_one(f"#{name}", Input).value = _shown(value)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._check(str(event.input.id), event.value)

    @on(Input.Submitted)
    def _entered(self) -> None:
        self.action_apply()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "apply":
            self.action_apply()
        else:
            self.action_cancel()

    def action_cancel(self) -> None:
        """Leave the settings as they were."""
        self.dismiss(False)

    def action_apply(self) -> None:
        """Apply the values, or focus the first one that is not allowed."""
        values: dict[str, Any] = {"system": self.query_one("#system", TextArea).text}
        for field in self.query(Input):
            name = str(field.id)
            if not self._check(name, field.value):
                field.focus()
                return
            values[name] = self._value(name, field.value)
        try:
            self._apply(Settings(**values))
        except UserError as error:
            self.query_one("#problem", Static).update(printable(str(error)))
            return
        self.dismiss(True)

    def _value(self, name: str, text: str) -> Any:
        return SETTINGS[name].parsed(text)

    def _check(self, name: str, text: str) -> bool:
        """Check a value, and show a problem below its field."""
        line = self.query_one(f"#about_{name}", Static)
        try:
            self._value(name, text)
        except ValueError as error:
            line.update(str(error))
            line.add_class("wrong")
            return False
        line.update(line_about(SETTINGS[name]))
        line.remove_class("wrong")
        return True


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def line_about(allowed: Range) -> str:
    """Describe a setting and its range."""
    if allowed.kind is str:
        return allowed.about
    return f"{allowed.about} ({allowed.ends})"
