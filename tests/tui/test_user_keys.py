"""The user's own keys and theme."""

import inspect
import pkgutil
from collections import Counter
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

import llama_cpu.tui
from llama_cpu.errors import UserError
from llama_cpu.settings.user_config import UserConfig, read_config
from llama_cpu.tui.actions import ACTIONS, COMMANDS, HEADINGS, KEYED, Scope, bindings
from llama_cpu.tui.preferences import Preferences, preferences_from
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.user_keys import keymap_from, normalized, shown
from tests.tui.driving import ask_and_wait, chat, conversation, is_answering, prompt, screen, until
from tests.tui.fakes import FakeSession, script

FILE = Path("/me/config.toml")
PUBLISHED = """
quit command_palette help send new_line stop new_conversation regenerate sidebar continue_answer
find settings models lens panels figures earlier_answer later_answer message_before
message_after delete_turn pin_this copy_answer copy_code scroll_up scroll_down edit up down back
rename delete duplicate pin search leave_list find_before find_after close_find lens_left lens_right
lens_up lens_down lens_page_up lens_page_down lens_first lens_last lens_leave lens_switch
lens_choose lens_1 lens_2 lens_3 lens_4 lens_5 lens_surprise lens_previous lens_next lens_close
cancel_settings apply_settings cancel_models close_figures figures_before figures_after
figures_all figures_scale export_figures close_help close_welcome cancel_loading leave_now yes
no previous_button next_button leave_as_it_is
"""


def with_keys(**keys: str) -> Preferences:
    return preferences_from(UserConfig(FILE, {}, keys))


def classes_with_bindings() -> list[type]:
    found = []
    for module in pkgutil.walk_packages(llama_cpu.tui.__path__, "llama_cpu.tui."):
        for _, each in inspect.getmembers(import_module(module.name), inspect.isclass):
            if each.__module__ == module.name and vars(each).get("BINDINGS"):
                found.append(each)
    return found


def test_every_binding_is_from_the_table() -> None:
    """Else it could not be changed, and would not be in the help."""
    tables = {scope: bindings(scope) for scope in Scope}
    scopes = [
        next(scope for scope, table in tables.items() if table == vars(each)["BINDINGS"])
        for each in classes_with_bindings()
    ]
    assert set(scopes) == set(Scope)  # one-line widgets repeat those of a message
    assert Counter(chain.from_iterable(HEADINGS.values())) == Counter(Scope)


def test_every_action_has_its_method() -> None:
    for each in classes_with_bindings():
        for binding in vars(each)["BINDINGS"]:
            name = binding.action.partition("(")[0]
            if "." not in name:
                assert callable(getattr(each, f"action_{name}")), f"{each} has no {name}"


def test_the_table_is_well_formed() -> None:
    assert Counter(each.id for each in ACTIONS).most_common(1)[0][1] == 1
    commands = [each.command for each in ACTIONS if each.command]
    assert len(commands) == len(set(commands)) == len(COMMANDS)
    for action in ACTIONS:
        assert action.id.isidentifier() and action.label and action.help
        assert action.keys or action.command
        assert bool(action.arguments) != bool(action.keys)
        assert not action.command or action.scope in (Scope.APP, Scope.CHAT)


async def test_letters_in_both_cases() -> None:
    for scope in Scope:
        keys = [key for each in bindings(scope) for key in each.key.split(",")]  # type: ignore[union-attr]
        letters = {key for key in keys if len(key) == 1 and key.isalpha()}
        assert letters == {key.swapcase() for key in letters}
    async with chat(FakeSession([script("One.")]), preferences=with_keys(no="Y")) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press("alt+d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("Y")  # which the user took from yes
        await until(pilot, lambda: screen(pilot).is_active)
        assert conversation(pilot) == ["You\nHi", "One."]


def test_actions_that_users_have_named_in_their_config_are_still_there() -> None:
    """Names may be added here, never removed."""
    assert set(PUBLISHED.split()) <= KEYED.keys()


def test_the_usual_keys_are_good_ones() -> None:
    usual = {name: action.keys for name, action in KEYED.items()}
    assert keymap_from(UserConfig(FILE, {}, usual)).keys() == usual.keys()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("Ctrl+R", "ctrl+r"), ("F5", "f5"), ("shift+ctrl+f5", "ctrl+shift+f5"),
        ("?", "question_mark"),
        (" ctrl+. ", "ctrl+full_stop"), ("ctrl++", "ctrl+plus"), ("+", "plus"), ("a", "a"),
        ("ctrl+A", "ctrl+a"), ("alt+PageUp", "alt+pageup"),
    ],
)  # fmt: skip
def test_keys_may_be_written_in_several_ways(key: str, expected: str) -> None:
    assert normalized(key) == expected


@pytest.mark.parametrize(
    ("key", "shows"),
    [
        ("ctrl+n", "Ctrl+N"), ("shift+enter,ctrl+j", "Shift+Enter, Ctrl+J"), ("escape", "Esc"),
        ("f1", "F1"), ("pageup", "PageUp"), ("y", "Y"), ("alt+question_mark", "Alt+?"),
    ],
)  # fmt: skip
def test_how_keys_are_shown(key: str, shows: str) -> None:
    assert shown(key) == shows


@pytest.mark.parametrize(
    ("name", "key", "problem"),
    [
        ("regenrate", "f5", "Did you mean 'regenerate'?"),
        ("\x1b[2J" + "x" * 500, "f5", "Unknown action"),
        ("regenerate", "", "not a key"), ("regenerate", "f5,", "not a key"),
        ("regenerate", "+ctrl", "not a key"),
        ("regenerate", "contrl+r", "not a key"), ("regenerate", "x" * 900, "not a key"),
        ("regenerate", "ctrl+\x1b[2J", "not a key"), ("regenerate", "r", "needed for writing"),
        ("regenerate", "shift+r", "needed for writing"), ("regenerate", "up", "needed for writing"),
        ("regenerate", "space", "needed for writing"),
        ("regenerate", "ctrl+c", "needed for writing"),
        ("regenerate", "ctrl+m", "same for it as for enter"),
        ("regenerate", "ctrl+i", "as for tab"),
        ("regenerate", "ctrl+[", "as for escape"),
        ("regenerate", "ctrl+n", "key of new_conversation"),
        ("regenerate", "ctrl+q", "key of quit"), ("quit", "ctrl+r", "key of regenerate"),
        ("send", "ctrl+j", "key of new_line"), ("yes", "escape", "key of no"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_used(name: str, key: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        with_keys(**{name: key})
    message = str(caught.value)
    assert message.startswith(f"{FILE}: [keys] {name}"[:60]) and problem in message
    assert len(message) < 400


async def test_changed_keys_act_and_the_usual_ones_no_longer() -> None:
    preferences = with_keys(
        send="ctrl+s", new_line="enter", regenerate="ctrl+e", new_conversation="f9, ctrl+r"
    )
    session = FakeSession([script("One."), script("Two.")])
    async with chat(session, preferences=preferences) as pilot:
        await pilot.press("a", "enter", "b", "ctrl+s")
        await until(pilot, lambda: bool(session.messages) and not is_answering(pilot))
        assert session.messages[0].text == "a\nb"
        await pilot.press("ctrl+e")  # which moves the cursor in other text areas
        await until(pilot, lambda: conversation(pilot) == ["You\na\nb", "Two."])
        await until(pilot, lambda: not is_answering(pilot))
        await pilot.press("ctrl+n")
        assert not isinstance(pilot.app.screen, Confirm)
        for key in ("f9", "ctrl+r"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))


async def test_keys_of_a_question_and_of_the_palette() -> None:
    preferences = with_keys(yes="j", command_palette="f8", quit="f10")
    async with chat(FakeSession([script("One.")]), preferences=preferences) as pilot:
        await ask_and_wait(pilot, "Hi")
        await pilot.press("f8")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 3)
        await pilot.press("escape")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 2)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y", "j")
        await until(pilot, lambda: conversation(pilot) == [])
        await pilot.press("f10")
    assert pilot.app.return_value == 0


async def test_the_theme_is_the_users_and_the_choice_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\ntheme = 'nord'  # calm\nseed = 1\n")
    preferences = preferences_from(read_config(file))
    async with chat(FakeSession([]), preferences=preferences) as pilot:
        assert pilot.app.theme == "nord"
        pilot.app.theme = "gruvbox"
        pilot.app.theme = "dracula"
        text = '# mine\ntheme = "dracula"  # calm\nseed = 1\n'
        await until(pilot, lambda: file.read_text() == text)


async def test_a_theme_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    preferences = Preferences(UserConfig(tmp_path / "file" / "config.toml"))
    async with chat(FakeSession([]), preferences=preferences) as pilot:
        pilot.app.theme = "nord"
        await until(pilot, lambda: any("nord" in n.message for n in pilot.app._notifications))
        assert prompt(pilot).has_focus


async def test_without_a_file_nothing_is_written() -> None:
    async with chat(FakeSession([])) as pilot:
        pilot.app.theme = "nord"
        await pilot.app.workers.wait_for_complete()
        assert not list(pilot.app._notifications)
        assert screen(pilot).is_current


def test_bindings_with_several_keys_have_no_spaces() -> None:
    """As Textual looks a key up in its own list."""
    for action in KEYED.values():
        assert " " not in action.keys
