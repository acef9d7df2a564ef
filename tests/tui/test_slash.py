"""Commands that are typed, and the menu that completes them."""

import threading
from pathlib import Path

import pytest
from textual.pilot import Pilot

from llama_cpu.errors import UserError
from llama_cpu.history.transfer import as_markdown
from llama_cpu.settings.generation_settings import SETTINGS, Settings
from llama_cpu.settings.user_config import UserConfig, read_config
from llama_cpu.system.text import cleaned
from llama_cpu.tui.actions import COMMANDS
from llama_cpu.tui.controllers.conversation_actions import IS_PINNED, NOTHING_TO_PIN
from llama_cpu.tui.controllers.slash import FROM_NEXT, LONGEST_FILE, NO_PRESETS, read_text
from llama_cpu.tui.preferences import Preferences
from llama_cpu.tui.screens.confirm import Confirm
from llama_cpu.tui.screens.help import HelpScreen
from llama_cpu.tui.screens.settings import SettingsScreen
from llama_cpu.tui.slash_commands import completions
from llama_cpu.tui.widgets.message_area import MessageArea, SlashMenu
from tests.tui.driving import (
    ask,
    ask_and_wait,
    chat,
    conversation,
    is_answering,
    note,
    prompt,
    screen,
    text_of,
    until,
)
from tests.tui.fakes import FakeSession, script, tokens


async def command(pilot: Pilot[int], text: str) -> None:
    """Write and press Enter, the menu being closed."""
    prompt(pilot).insert(text)
    await pilot.pause()
    screen(pilot).query_one(MessageArea).close_menu()
    await pilot.press("enter")
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def menu(pilot: Pilot[int]) -> list[str]:
    """The lines of the open menu."""
    options = screen(pilot).query_one(SlashMenu)
    return [str(each.prompt) for each in options.options] if options.display else []


async def test_system() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await command(pilot, "/system Be kind [b]and[/] brief.")
        assert session.settings.system == "Be kind [b]and[/] brief."
        assert prompt(pilot).text == "" and prompt(pilot).border_subtitle == ""
        assert note(pilot) == f"The system prompt is “{session.settings.system}” {FROM_NEXT}."
        await command(pilot, "/system")
        assert "Be kind [b]and[/] brief." in note(pilot)
        await command(pilot, "/set system default")
        assert session.settings.system == ""
        assert note(pilot) == f"system has its default {FROM_NEXT}."


async def test_set() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await command(pilot, "/set temperature 0.3")
        assert note(pilot) == f"temperature is 0.3 {FROM_NEXT}."
        await command(pilot, "/set seed   7 ")
        await command(pilot, "/set template vicuna")
        assert session.settings == Settings(temperature=0.3, seed=7, template="vicuna")
        assert "vicuna template" in text_of(pilot, "#about")
        await command(pilot, "/set seed default")
        assert session.settings.seed is None
        await command(pilot, "/set temperature")
        assert note(pilot).startswith("temperature 0.3: ")
        await command(pilot, "/set")
        assert len(note(pilot).splitlines()) == len(SETTINGS)
        assert session.messages == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/set temperature hot", "temperature must be a number from 0 to 100"),
        ("/set temperature 1e9", "must be a number from 0 to 100"),
        ("/set temprature 1", "Unknown setting 'temprature'. Did you mean 'temperature'?"),
        ("/set heat 1", "Unknown setting 'heat'. The settings are system, template"),
        ("/set template unheard-of", "no such file"),
        ("/sytem x", "Unknown command /sytem. Did you mean /system?"),
        ("/", "Unknown command /. /help lists all commands."),
        ("/\x1b[2J" + "x" * 300, "Unknown command"),
        ("/etc/hosts: what is it?", "Unknown command /etc/hosts:"),
        ("/save", "/save FILE"), ("/load", "/load FILE"), ("/load ''", "/load FILE"),
        ("/load /no/such", "There is no file /no/such."), ("/load a\0b", "is no file a"),
        ("/attach /", "/ is a folder."), ("/load /dev/null", "/dev/null is a device"),
        ("/load ~nobody-of-that-name/x", "home folder"),
        ("/save x.md", "no conversation yet"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_and_the_text_stays(text: str, problem: str) -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await command(pilot, text)
        assert problem in note(pilot) and "\x1b" not in note(pilot)
        assert len(note(pilot)) < 300
        assert prompt(pilot).text == cleaned(text)
        assert session.messages == [] and session.settings == Settings()


async def test_two_slashes_begin_a_message() -> None:
    session = FakeSession([script("A command."), [UserError("Too long.")], script("Yes.")])
    async with chat(session) as pilot:
        await ask_and_wait(pilot, "//help is what?")
        assert session.messages[0].text == "/help is what?"
        await ask_and_wait(pilot, "//quit")
        assert prompt(pilot).text == "//quit"  # which could not be answered
        await pilot.press("enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Yes.")


async def test_new_help_quit_and_the_names_of_other_actions() -> None:
    async with chat(FakeSession([script("One."), script("Two.")])) as pilot:
        await ask_and_wait(pilot, "Hi")
        prompt(pilot).insert("/regenerate")
        await pilot.press("enter")
        await until(pilot, lambda: conversation(pilot)[-1] == "Two.")
        await until(pilot, lambda: not is_answering(pilot))
        prompt(pilot).insert("/help")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, HelpScreen))
        await pilot.press("escape")
        prompt(pilot).insert("/settings")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, SettingsScreen))
        await pilot.press("escape")
        prompt(pilot).insert("/new")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: conversation(pilot) == [])
        assert prompt(pilot).text == ""
        prompt(pilot).insert("/quit")
        await pilot.press("enter")
    assert pilot.app.return_value == 0


async def test_save(tmp_path: Path) -> None:
    async with chat(FakeSession([script("It is *Paris*.")])) as pilot:
        await ask_and_wait(pilot, "The capital of France?")
        file = tmp_path / "my chat.md"
        await command(pilot, f'/save "{file}"')
        text = file.read_text()
        assert text.startswith("# The capital of France?\n") and "It is *Paris*." in text
        assert note(pilot) == f"Saved as {file}." and prompt(pilot).text == ""
        file.write_text("mine")
        await command(pilot, f"/save {file}")
        assert "already exists" in note(pilot) and file.read_text() == "mine"
        prompt(pilot).clear()
        await command(pilot, f"/save {tmp_path / 'file' / 'x.md'}".replace("file", "my chat.md"))
        assert "cannot be written" in note(pilot)
        prompt(pilot).clear()
        await command(pilot, f"/save {tmp_path / 'new' / 'x.md'}")
        assert note(pilot) == f"There is no folder {tmp_path / 'new'}."
        assert not (tmp_path / "new").exists()


async def test_load(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("/one two\x1b[31m\r\nthree\n")
    session = FakeSession([script("Fine.")])
    async with chat(session) as pilot:
        await command(pilot, f"/load {file}")
        assert note(pilot) == "notes.txt: 3 tokens."
        assert prompt(pilot).text == "//one two␛[31m\nthree\n"
        await pilot.press("enter")
        await until(pilot, lambda: bool(session.messages))
        assert session.messages[0].text.startswith("/one two")
        await until(pilot, lambda: not is_answering(pilot))


@pytest.mark.parametrize(("key", "loaded"), [("y", True), ("n", False)])
async def test_more_than_a_quarter_of_the_context_is_asked_for(
    key: str, loaded: bool, tmp_path: Path
) -> None:
    file = tmp_path / "[b]long.txt"
    file.write_text("word " * 2000)
    async with chat(FakeSession([])) as pilot:
        prompt(pilot).insert(f"/load {file}")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press(key)
        await pilot.app.workers.wait_for_complete()
        assert (prompt(pilot).text == "word " * 2000) == loaded
        assert prompt(pilot).text.startswith("word" if loaded else "/load")


async def test_what_was_written_while_a_file_was_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = threading.Event()

    def slowly(path: Path) -> str:
        wait.wait(10)
        return "loaded"

    monkeypatch.setattr("llama_cpu.tui.controllers.slash.read_text", slowly)
    async with chat(FakeSession([])) as pilot:
        prompt(pilot).insert("/load x")
        await pilot.press("enter")
        prompt(pilot).text = "written"
        wait.set()
        await until(pilot, lambda: prompt(pilot).text == "loaded\nwritten")
        await pilot.app.workers.wait_for_complete()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x7fELF\0\0\0", "binary"), (b"caf\xe9", "UTF-8"), (b"", "empty"), (b" \n", "empty"),
        (b"x" * (LONGEST_FILE + 1), "no model can read"),
    ],
    ids=["zeros", "latin-1", "empty", "blank", "large"],
)  # fmt: skip
def test_files_that_are_no_text(data: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(UserError, match=problem):
        read_text(tmp_path / "x")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_text(tmp_path)


async def test_commands_during_an_answer() -> None:
    wait = threading.Event()
    session = FakeSession([[*tokens("Once"), wait, *tokens(" more")]])
    async with chat(session) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once")
        prompt(pilot).insert("/set temperature 0.3")
        await pilot.press("enter")
        await until(pilot, lambda: session.settings.temperature == 0.3)
        assert is_answering(pilot)
        wait.set()
        await until(pilot, lambda: not is_answering(pilot))


# The menu


def test_completions() -> None:
    assert [text for text, _ in completions("/se")] == ["/set ", "/settings"]
    assert [text for text, _ in completions("/set te")] == ["/set template ", "/set temperature "]
    assert len(completions("/")) == len(COMMANDS)
    for text in ("", "x", "//", "//set", "/set temperature 0", "/load x", "/a\nb", " /set"):
        assert completions(text) == []


async def test_the_menu_opens_chooses_and_closes() -> None:
    session = FakeSession([])
    async with chat(session) as pilot:
        await pilot.press("/")
        await until(pilot, lambda: len(menu(pilot)) == len(COMMANDS))
        await pilot.press("s", "e")
        await until(pilot, lambda: len(menu(pilot)) == 2)
        await pilot.press("down", "up", "tab")
        assert prompt(pilot).text == "/set "
        await until(pilot, lambda: len(menu(pilot)) == len(SETTINGS))
        await pilot.press("t", "e", "down", "enter")
        assert prompt(pilot).text == "/set temperature "
        await pilot.press(*"0.5", "enter")
        await until(pilot, lambda: session.settings.temperature == 0.5)
        await until(pilot, lambda: menu(pilot) == [])


async def test_escape_closes_the_menu_and_not_the_answer() -> None:
    session = FakeSession([[*tokens("Once"), threading.Event()]])
    async with chat(session) as pilot:
        await ask(pilot, "Hi")
        await until(pilot, lambda: conversation(pilot)[-1] == "Once")
        await pilot.press("/")
        await until(pilot, lambda: bool(menu(pilot)))
        await pilot.press("escape")
        assert menu(pilot) == [] and is_answering(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not is_answering(pilot))


async def test_a_whole_name_and_enter_run_the_command_itself() -> None:
    """Also where the menu's first line is another one."""
    async with chat(FakeSession([])) as pilot:
        await pilot.press(*"/set")
        await until(pilot, lambda: bool(menu(pilot)))
        await pilot.press("enter")
        await until(pilot, lambda: "temperature 0.8" in note(pilot))
        assert conversation(pilot) == []


async def test_a_click_completes() -> None:
    async with chat(FakeSession([])) as pilot:
        await pilot.press(*"/sys")
        await until(pilot, lambda: len(menu(pilot)) == 1)
        await pilot.click(SlashMenu, offset=(3, 0))
        await until(pilot, lambda: prompt(pilot).text == "/system ")
        assert prompt(pilot).has_focus


async def test_pin() -> None:
    session = FakeSession([script("One.")])
    async with chat(session) as pilot:
        await command(pilot, "/pin")
        assert prompt(pilot).border_subtitle == NOTHING_TO_PIN
        await ask_and_wait(pilot, "first")
        await command(pilot, "/pin")
        await until(pilot, lambda: session.history.conversations()[0].pinned)
        assert prompt(pilot).border_subtitle == IS_PINNED


async def test_presets(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    preferences = Preferences(UserConfig(file))
    session = FakeSession([], model_settings=Settings(temperature=0.2))
    async with chat(session, preferences=preferences) as pilot:
        await command(pilot, "/preset")
        assert note(pilot) == NO_PRESETS
        await command(pilot, "/system Be brief.")
        await command(pilot, "/set top_k 9")
        await command(pilot, "/set temperature default")
        assert session.settings.temperature == 0.2  # the model's own
        await command(pilot, "/preset save brief")
        assert read_config(file).presets == {"brief": {"system": "Be brief.", "top_k": 9}}
        await command(pilot, "/set top_k default")
        await command(pilot, "/set min_p 0.5")
        await command(pilot, "/preset")
        assert note(pilot) == "brief: top_k 9, “Be brief.”"
        await command(pilot, "/preset brief")
        assert session.settings == Settings("Be brief.", temperature=0.2, top_k=9)
        assert note(pilot) == f"The preset brief is used {FROM_NEXT}: top_k 9, “Be brief.”"
        await command(pilot, "/preset brif")
        assert "Did you mean 'brief'?" in note(pilot)
        prompt(pilot).clear()
        await command(pilot, "/preset default")
        assert session.settings == Settings(temperature=0.2)
        assert note(pilot) == f"There is no preset {FROM_NEXT}."
        await command(pilot, "/preset save default")
        assert "another name" in note(pilot)


async def test_the_preset_of_the_run_is_saved_and_left(tmp_path: Path) -> None:
    pirate = Settings("Be a pirate.", template="vicuna", temperature=0.2)
    session = FakeSession([], settings=pirate, default_settings=pirate)
    config = UserConfig(tmp_path / "config.toml", presets={"old": {"top_k": 1}})
    async with chat(session, preferences=Preferences(config)) as pilot:
        await command(pilot, "/preset save old")
        assert "The preset old is replaced" in note(pilot)
        saved = read_config(tmp_path / "config.toml").presets["old"]
        assert saved == {"system": "Be a pirate.", "template": "vicuna", "temperature": 0.2}
        await command(pilot, "/set temperature default")
        assert session.settings.temperature == Settings().temperature
        await command(pilot, "/preset none")
        assert session.settings == Settings(template="vicuna")


async def test_attach(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("one two\x1b[31m\r\nthree\n")
    session = FakeSession([script("Fine."), script("Good.")])
    async with chat(session) as pilot:
        await command(pilot, f"/attach {file}")
        line = "[notes.txt, 3 tokens]"
        assert prompt(pilot).text == f"{line}\n"
        await ask_and_wait(pilot, "Sum up")
        assert conversation(pilot) == [f"You\n{line}\nSum up", "Fine."]
        sent = session.messages[0].text
        assert sent.endswith("\none two␛[31m\nthree\n</file>\nSum up")
        stored = session.history.conversations()[0]
        assert stored.title == f"{line} Sum up"
        assert "three" in as_markdown(stored, session.history.path(stored.id))
        # An edited message keeps its file.
        await pilot.press("alt+up", "alt+up", "enter")
        await until(pilot, lambda: prompt(pilot).text == f"{line}\nSum up")
        await pilot.press("!", "enter")
        await until(pilot, lambda: conversation(pilot)[1:] == ["Good."])
        await until(pilot, lambda: not is_answering(pilot))
        assert session.messages[0].text == f"{sent}!"


async def test_backspace_removes_the_line_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word")
    async with chat(FakeSession([])) as pilot:
        await command(pilot, f"/attach {tmp_path / 'a.txt'}")
        line = "[a.txt, 1 tokens]"
        await pilot.press("h", "i", "backspace", "backspace", "backspace")
        assert prompt(pilot).text == line  # the cursor is at its end
        await pilot.press("backspace")
        assert prompt(pilot).text == ""
        prompt(pilot).text = f"{line}\nhi"
        prompt(pilot).move_cursor((0, 3))
        await pilot.press("backspace")
        assert prompt(pilot).text == "hi" and prompt(pilot).cursor_location == (0, 0)


async def test_attach_below_other_text_keeps_it(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("word")
    session = FakeSession([])
    async with chat(session) as pilot:
        await command(pilot, f"/attach {tmp_path / 'one.txt'}")
        await command(pilot, f"Compare\n/attach {tmp_path / 'two.txt'}")
        both = "[one.txt, 1 tokens]\nCompare\n[two.txt, 1 tokens]\n"
        assert prompt(pilot).text == both and not session.messages
        await command(pilot, "/attach /no/such")
        assert prompt(pilot).text == f"{both}/attach /no/such" and "/no/such" in note(pilot)
        assert not session.messages


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\0binary", "binary"),
        (b"\xff\xfe", "not UTF-8"),
        (b"word " * 4096, "attach a part"),
        (None, "notes.txt"),
    ],
)
async def test_what_cannot_be_attached(data: bytes | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    if data is not None:
        file.write_bytes(data)
    async with chat(FakeSession([])) as pilot:
        await command(pilot, f"/attach {file}")
        assert problem in note(pilot) and prompt(pilot).text == f"/attach {file}"
