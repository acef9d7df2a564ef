"""The table of all actions: what a key, the command palette or a slash command can do.

Everything else that lists actions is read from it: the bindings of every screen and widget, the
help screen, the command palette, the slash commands, and the check of ``[keys]`` in config.toml.
A new action is one row here, and one ``action_...`` method on the class of its scope.
"""

from dataclasses import dataclass
from enum import Enum, auto

from textual.binding import Binding, BindingType


class Scope(Enum):
    """The screen or widget that an action belongs to; it has the method that ``run`` names."""

    APP = auto()
    INPUT = auto()
    CHAT = auto()
    MESSAGE = auto()
    SIDEBAR = auto()
    FIND_BAR = auto()
    LENS_TEXT = auto()
    LENS = auto()
    SETTINGS = auto()
    MODELS = auto()
    DOWNLOADS = auto()
    FIGURES = auto()
    HELP = auto()
    WELCOME = auto()
    LOADING = auto()
    LEAVING = auto()
    CONFIRM = auto()
    ASK = auto()


# The headings of the help screen. The keys of the first heading work everywhere, so each key must
# be unique among those and the keys under its own heading.
HEADINGS: dict[str, tuple[Scope, ...]] = {
    "Everywhere": (Scope.APP,),
    "In the chat": (Scope.INPUT, Scope.CHAT),
    "On a chosen message": (Scope.MESSAGE,),
    "In the list of conversations": (Scope.SIDEBAR,),
    "While searching": (Scope.FIND_BAR,),
    "In the token lens": (Scope.LENS_TEXT, Scope.LENS),
    "In the settings": (Scope.SETTINGS,),
    "In the table of models": (Scope.MODELS,),
    "In the list of downloads": (Scope.DOWNLOADS,),
    "In the figures": (Scope.FIGURES,),
    "In this help": (Scope.HELP,),
    "On the welcome screen": (Scope.WELCOME,),
    "While a model is loading": (Scope.LOADING,),
    "While the KV cache is being saved": (Scope.LEAVING,),
    "In a question": (Scope.CONFIRM,),
    "In a text field": (Scope.ASK,),
}

# Scopes whose keys take priority over those of the focused widget.
_COME_FIRST = {
    Scope.APP, Scope.CHAT, Scope.FIND_BAR, Scope.FIGURES, Scope.SETTINGS, Scope.DOWNLOADS,
}  # fmt: skip


# Textual does not look for the app's keys behind these screens, unless they come first.
_MODAL = {
    Scope.SETTINGS, Scope.MODELS, Scope.HELP, Scope.WELCOME, Scope.LEAVING, Scope.CONFIRM,
    Scope.ASK,
}  # fmt: skip


@dataclass(frozen=True)
class Action:
    """One row of the table."""

    id: str  # its name under [keys] in config.toml
    keys: str  # default keys, separated by commas; empty: a slash command with arguments
    label: str
    help: str
    scope: Scope
    run: str = ""  # the Textual action, if its name is not the id
    footer: str = ""  # its label in the footer; empty: not shown there
    key_label: str = ""  # how the footer writes the key
    in_palette: bool = False
    command: str = ""  # the name of the slash command; empty: there is none
    arguments: str = ""  # of the slash command
    yields: bool = False  # the focused widget may use the key first, whatever the scope

    @property
    def to_run(self) -> str:
        """What Textual runs, such as ``step(-1)`` for a method ``action_step``."""
        return self.run or self.id

    @property
    def usage(self) -> str:
        """How the slash command is written: ``/set NAME VALUE``."""
        return f"/{self.command} {self.arguments}".rstrip()


ACTIONS: tuple[Action, ...] = (
    Action("quit", "ctrl+q", "Quit", "quit", Scope.APP, footer="Quit", command="quit"),
    Action(
        "interrupt", "ctrl+c", "Stop or quit", "stop the answer, or quit (asks)",
        Scope.APP, yields=True,  # text that is marked is copied
    ),
    Action(
        "command_palette", "ctrl+p", "palette", "all commands, and the themes", Scope.APP,
        command="command_palette",
    ),
    Action(
        "help", "f1", "Help", "keys and commands", Scope.APP, in_palette=True, command="help"
    ),
    # The message that is being written
    Action(
        "send", "enter", "Send", "send the message", Scope.INPUT, footer="Send",
        key_label="Enter", in_palette=True,
    ),
    Action(
        "new_line", "shift+enter,ctrl+j,alt+enter", "New line", "begin a new line in the message",
        Scope.INPUT, run="newline", footer="Line", key_label="^j", in_palette=True,
    ),
    # The chat
    Action(
        "stop", "escape", "Stop", "stop the answer and keep it so far", Scope.CHAT, footer="Stop",
        key_label="Esc", in_palette=True, command="stop",
    ),
    Action(
        "new_conversation", "ctrl+n", "New conversation", "start a new conversation", Scope.CHAT,
        footer="New", in_palette=True, command="new",
    ),
    Action(
        "regenerate", "ctrl+r", "Regenerate", "answer the last message again", Scope.CHAT,
        footer="Again", in_palette=True, command="regenerate",
    ),
    Action(
        "sidebar", "ctrl+b", "Conversations", "the list of conversations", Scope.CHAT,
        footer="List", in_palette=True, command="sidebar",
    ),
    Action(
        "continue_answer", "ctrl+g", "Continue", "continue a stopped answer", Scope.CHAT,
        in_palette=True, command="continue_answer",
    ),
    Action(
        "find", "ctrl+f", "Find", "search in this conversation", Scope.CHAT, in_palette=True,
        command="find",
    ),
    Action(
        "settings", "f2", "Settings", "system prompt, temperature and so on", Scope.CHAT,
        in_palette=True, command="settings",
    ),
    Action(
        "models", "f3", "Models", "the models on this computer", Scope.CHAT, in_palette=True,
        command="models",
    ),
    Action(
        "lens", "f4", "Token lens", "how probable each token was", Scope.CHAT, in_palette=True,
        command="lens",
    ),
    Action(
        "panels", "f6", "Panels", "show or hide the panels", Scope.CHAT, in_palette=True,
        command="panels",
    ),
    Action(
        "figures", "f7", "Figures", "times and memory, full screen", Scope.CHAT, in_palette=True,
        command="figures",
    ),
    Action(
        "earlier_answer", "alt+left", "Previous alternative", "show the previous alternative",
        Scope.CHAT, run="alternative(-1)", in_palette=True, command="earlier_answer",
    ),
    Action(
        "later_answer", "alt+right", "Next alternative", "show the next alternative", Scope.CHAT,
        run="alternative(1)", in_palette=True, command="later_answer",
    ),
    Action(
        "message_before", "alt+up", "Edit a message", "choose a message or answer to edit",
        Scope.CHAT, run="step(-1)", in_palette=True, command="message_before",
    ),
    Action(
        "message_after", "alt+down", "Next message", "choose the next message", Scope.CHAT,
        run="step(1)", in_palette=True, command="message_after",
    ),
    Action(
        "delete_turn", "alt+d", "Delete the last turn", "delete the last turn", Scope.CHAT,
        in_palette=True, command="delete_turn",
    ),
    Action(
        "pin_this", "alt+p", "Pin", "pin this conversation, or unpin it", Scope.CHAT,
        in_palette=True, command="pin",
    ),
    Action(
        "copy_answer", "alt+c", "Copy the answer", "copy the last answer", Scope.CHAT,
        in_palette=True, command="copy_answer",
    ),
    Action(
        "copy_code", "alt+k", "Copy code", "copy code; again: previous block", Scope.CHAT,
        in_palette=True, command="copy_code",
    ),
    Action(
        "thinking", "alt+t", "Thinking", "show or fold the model's thinking", Scope.CHAT,
        in_palette=True, command="thinking",
    ),
    Action("scroll_up", "pageup", "Scroll up", "scroll up", Scope.CHAT, run="scroll(-1)"),
    Action("scroll_down", "pagedown", "Scroll down", "scroll down", Scope.CHAT, run="scroll(1)"),
    # Slash commands that have no key, as they take arguments; controllers/slash.py runs them
    Action(
        "set", "", "Set", "change a setting; VALUE default resets it; alone: show all", Scope.CHAT,
        command="set", arguments="NAME VALUE",
    ),
    Action(
        "system", "", "System prompt", "change the system prompt; alone: show it", Scope.CHAT,
        command="system", arguments="TEXT",
    ),
    Action(
        "preset", "", "Preset", "use a preset; save NAME keeps one; alone: list", Scope.CHAT,
        command="preset", arguments="NAME",
    ),
    Action(
        "save", "", "Save", "save the conversation as Markdown", Scope.CHAT, command="save",
        arguments="FILE",
    ),
    Action(
        "load", "", "Load", "put a text file into the message", Scope.CHAT, command="load",
        arguments="FILE",
    ),
    Action(
        "attach", "", "Attach", "attach a text file, shown as one line", Scope.CHAT,
        command="attach", arguments="FILE",
    ),
    # A message or an answer, chosen with alt+up
    Action(
        "edit", "enter,e", "Edit", "edit the message", Scope.MESSAGE,
        run="screen.edit_chosen", footer="Edit", key_label="Enter",
    ),
    Action(
        "up", "up", "Previous", "the previous message", Scope.MESSAGE, run="screen.step(-1)",
        footer="Previous",
    ),
    Action(
        "down", "down", "Next", "the next message", Scope.MESSAGE, run="screen.step(1)",
        footer="Next",
    ),
    Action(
        "back", "escape", "Back", "back to writing", Scope.MESSAGE,
        run="screen.leave_chosen", footer="Back", key_label="Esc",
    ),
    # The list of conversations
    Action(
        "rename", "r,f2", "Rename", "rename the conversation", Scope.SIDEBAR,
        run="request('rename')", footer="Rename", key_label="r",
    ),
    Action(
        "delete", "d,delete", "Delete", "delete the conversation", Scope.SIDEBAR,
        run="request('delete')", footer="Delete", key_label="d",
    ),
    Action(
        "duplicate", "c", "Duplicate", "duplicate the conversation", Scope.SIDEBAR,
        run="request('duplicate')", footer="Duplicate",
    ),
    Action(
        "pin", "p", "Pin", "pin the conversation, or unpin it", Scope.SIDEBAR,
        run="request('pin')", footer="Pin",
    ),
    Action(
        "search", "slash", "Search", "search all conversations", Scope.SIDEBAR, footer="Search",
        key_label="/",
    ),
    Action(
        "leave_list", "escape", "Back", "back to writing", Scope.SIDEBAR, run="leave",
        footer="Back", key_label="Esc",
    ),
    # Searching in the conversation
    Action(
        "find_before", "enter,up", "Previous", "the previous match", Scope.FIND_BAR,
        run="step(-1)", footer="Previous",
    ),
    Action(
        "find_after", "shift+enter,down", "Next", "the next match", Scope.FIND_BAR, run="step(1)",
        footer="Next",
    ),
    Action(
        "close_find", "escape", "Close", "close the search", Scope.FIND_BAR, run="close",
        footer="Close", key_label="Esc",
    ),
    # The token lens
    Action("lens_left", "left", "Left", "the previous token", Scope.LENS_TEXT, run="move(-1)"),
    Action("lens_right", "right", "Right", "the next token", Scope.LENS_TEXT, run="move(1)"),
    Action("lens_up", "up", "Up", "the line above", Scope.LENS_TEXT, run="move_line(-1)"),
    Action("lens_down", "down", "Down", "the line below", Scope.LENS_TEXT, run="move_line(1)"),
    Action(
        "lens_page_up", "pageup", "Page up", "one page up", Scope.LENS_TEXT, run="move_page(-1)"
    ),
    Action(
        "lens_page_down", "pagedown", "Page down", "one page down", Scope.LENS_TEXT,
        run="move_page(1)",
    ),
    Action("lens_first", "home", "First", "the first token", Scope.LENS_TEXT, run="go(0)"),
    Action("lens_last", "end", "Last", "the last token", Scope.LENS_TEXT, run="go(-1)"),
    Action(
        "lens_leave", "escape", "Back", "back to the tokens, or to the chat", Scope.LENS,
        run="leave", footer="Back", key_label="Esc",
    ),
    Action(
        "lens_switch", "t", "Time", "colour by time, or by probability", Scope.LENS, run="switch",
        footer="Time",
    ),
    Action(
        "lens_choose", "enter", "Others", "the alternatives; Enter branches", Scope.LENS,
        run="choose", footer="Others",
    ),
    *(
        Action(
            f"lens_{n}", f"{n}", f"Branch {n}", f"branch here with alternative {n}", Scope.LENS,
            run=f"branch({n - 1})",
        )
        for n in range(1, 6)
    ),
    Action(
        "lens_surprise", "s", "Surprise", "the next token not ranked first", Scope.LENS,
        run="surprise", footer="Surprise",
    ),
    Action(
        "lens_previous", "p", "Previous", "the previous answer", Scope.LENS, run="answer(-1)",
        footer="Previous",
    ),
    Action(
        "lens_next", "n", "Next", "the next answer", Scope.LENS, run="answer(1)", footer="Next"
    ),
    Action("lens_close", "f4", "Close", "back to the chat", Scope.LENS, run="dismiss(None)"),
    # The settings and the table of models
    Action(
        "cancel_settings", "escape", "Cancel", "leave the settings as they were", Scope.SETTINGS,
        run="cancel",
    ),
    Action(
        "apply_settings", "ctrl+s", "Apply", "apply the settings", Scope.SETTINGS, run="apply"
    ),
    Action(
        "cancel_models", "escape", "Cancel", "keep the present model", Scope.MODELS, run="cancel"
    ),
    Action(
        "download_models", "d", "Download", "models to download", Scope.MODELS, run="download"
    ),
    Action(
        "pause_download", "escape", "Pause", "pause the download, or back", Scope.DOWNLOADS,
        run="leave",
    ),
    Action("download_before", "up", "Up", "the model above", Scope.DOWNLOADS, run="move(-1)"),
    Action("download_after", "down", "Down", "the model below", Scope.DOWNLOADS, run="move(1)"),
    # The figures
    Action(
        "close_figures", "escape,q,f7", "Close the figures", "back to the chat", Scope.FIGURES,
        run="close", footer="Close", key_label="Esc", in_palette=True,
    ),
    Action(
        "figures_before", "left", "Previous answer", "only the previous answer", Scope.FIGURES,
        run="step(-1)", footer="Previous", key_label="←", in_palette=True,
    ),
    Action(
        "figures_after", "right", "Next answer", "only the next answer", Scope.FIGURES,
        run="step(1)", footer="Next", key_label="→", in_palette=True,
    ),
    Action(
        "figures_all", "home", "All answers", "all answers", Scope.FIGURES, run="whole",
        footer="All", key_label="Home", in_palette=True,
    ),
    Action(
        "figures_scale", "l", "Logarithmic scale", "logarithmic or linear scale", Scope.FIGURES,
        run="scale", footer="Log", in_palette=True,
    ),
    Action(
        "export_figures", "e", "Export the figures", "export times and figures to a file",
        Scope.FIGURES, run="export", footer="Export", in_palette=True,
    ),
    # Small screens
    Action("close_help", "escape,enter,q", "Close", "close the help", Scope.HELP, run="close"),
    Action("close_welcome", "escape,enter", "Begin", "begin", Scope.WELCOME, run="close"),
    Action(
        "cancel_loading", "escape", "Cancel", "cancel loading", Scope.LOADING, run="cancel",
        footer="Cancel", key_label="Esc",
    ),
    Action(
        "leave_now", "escape", "Leave now", "quit without saving it", Scope.LEAVING, run="leave"
    ),
    Action("yes", "y", "Yes", "yes", Scope.CONFIRM, run="answer(True)"),
    Action("no", "n,escape", "No", "no", Scope.CONFIRM, run="answer(False)"),
    Action(
        "previous_button", "left", "Previous button", "the previous button", Scope.CONFIRM,
        run="app.focus_previous",
    ),
    Action(
        "next_button", "right", "Next button", "the next button", Scope.CONFIRM,
        run="app.focus_next",
    ),
    Action(
        "leave_as_it_is", "escape", "Cancel", "leave the text as it was", Scope.ASK,
        run="dismiss(None)",
    ),
)  # fmt: skip

# The actions that have keys, by their names under [keys] in config.toml.
KEYED = {action.id: action for action in ACTIONS if action.keys}

# What is used most comes first in the list of commands; the others follow in alphabetical order.
_FIRST = ("help", "new", "set", "system", "load", "save", "regenerate", "settings", "quit")


def _place(action: Action) -> tuple[int, str]:
    is_first = action.command in _FIRST
    return (_FIRST.index(action.command) if is_first else len(_FIRST), action.command)


# The slash commands by their names, and what users of other programs type for some of them.
COMMANDS = {action.command: action for action in sorted(ACTIONS, key=_place) if action.command}
OTHER_NAMES = {"bye": "quit", "clear": "new", "?": "help"}


def bindings(scope: Scope) -> list[BindingType]:
    """The Textual bindings of the screen or widget with this scope."""
    interrupt = KEYED["interrupt"]
    inherited = Binding(interrupt.keys, "app.interrupt", show=False, id=interrupt.id)
    return [
        *([inherited] if scope in _MODAL else []),
        *_own_bindings(scope),
    ]


def _own_bindings(scope: Scope) -> list[Binding]:
    return [
        Binding(
            _in_both_cases(action.keys),
            action.to_run,
            action.footer or action.label,
            show=bool(action.footer),
            key_display=action.key_label or None,
            priority=scope in _COME_FIRST and not action.yields,
            tooltip=action.help,
            id=action.id,
        )
        for action in KEYED.values()
        if action.scope is scope
    ]


def _in_both_cases(keys: str) -> str:
    """Add the capital after each letter, as pages name their keys in capitals.

    A key of config.toml stays as it is written there, and takes a capital from another action.
    """
    both = [f"{key},{key.upper()}" if _is_letter(key) else key for key in keys.split(",")]
    return ",".join(both)


def _is_letter(key: str) -> bool:
    return len(key) == 1 and key.isalpha()
