"""The chat's actions as the command palette offers them."""

from collections.abc import Iterator

from textual.app import SystemCommand
from textual.screen import Screen

# Title, what it does, its key, and the screen's action.
COMMANDS = (
    ("Stop", "Stop the answer and keep what was written", "Esc", "stop"),
    ("New conversation", "Begin anew; this one stays in the list", "Ctrl+N", "new_conversation"),
    ("Conversations", "Show or hide the list of conversations", "Ctrl+B", "sidebar"),
    ("Regenerate", "Answer the last message once more", "Ctrl+R", "regenerate"),
    ("Continue", "Write on at an answer that was stopped or cut", "Ctrl+G", "continue_answer"),
    ("Earlier alternative", "Show the answer given before", "Alt+Left", "alternative(-1)"),
    ("Later alternative", "Show the answer given after", "Alt+Right", "alternative(1)"),
    ("Edit a message", "Choose among your messages, from the last one", "Alt+Up", "step(-1)"),
    ("Next message", "Choose your message after the chosen one", "Alt+Down", "step(1)"),
    ("Delete the last turn", "Your last message and what follows", "Alt+D", "delete_turn"),
    ("Copy the answer", "The last one, as it was written", "Alt+C", "copy_answer"),
    ("Copy code", "The last block of code; again: the one before", "Alt+K", "copy_code"),
)


def commands(screen: Screen[None]) -> Iterator[SystemCommand]:
    """All of them, with their keys."""

    def runner(action: str):
        async def run() -> None:
            await screen.run_action(action)

        return run

    for title, help, key, action in COMMANDS:
        yield SystemCommand(title, f"{help} ({key})", runner(action))
