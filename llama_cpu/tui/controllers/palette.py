"""The chat's actions as the command palette offers them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.app import SystemCommand

from llama_cpu.tui.keys import actions, keys_of, shown

if TYPE_CHECKING:
    from llama_cpu.tui.screens.chat import ChatScreen

# Title, and the action by its name in config.toml.
COMMANDS = (
    ("Send", "send"),
    ("New line", "new_line"),
    ("Stop", "stop"),
    ("New conversation", "new_conversation"),
    ("Conversations", "sidebar"),
    ("Regenerate", "regenerate"),
    ("Continue", "continue_answer"),
    ("Token lens", "lens"),
    ("Earlier alternative", "earlier_answer"),
    ("Later alternative", "later_answer"),
    ("Edit a message", "message_before"),
    ("Next message", "message_after"),
    ("Delete the last turn", "delete_turn"),
    ("Copy the answer", "copy_answer"),
    ("Copy code", "copy_code"),
    ("Find", "find"),
    ("Settings", "settings"),
    ("Panels", "panels"),
    ("Figures", "figures"),
    ("Models", "models"),
)


def commands(screen: "ChatScreen") -> Iterator[SystemCommand]:
    """All of them, with their keys."""
    known = actions()

    def runner(name: str, action: str):
        async def run() -> None:
            node = screen.prompt if name in ("send", "new_line") else screen
            await node.run_action(action)

        return run

    for title, name in COMMANDS:
        binding = known[name]
        keys = shown(keys_of(name, screen.app.keymap))  # type: ignore[attr-defined]
        about = binding.tooltip or binding.description
        yield SystemCommand(title, f"{about} ({keys})", runner(name, binding.action))
