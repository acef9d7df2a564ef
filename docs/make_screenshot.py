"""Takes the README's picture of the real app with the demo model; run it as a script."""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as the command line sets it

from llama_cpu.chat.open_session import session_opener
from llama_cpu.cli import chat_parser
from llama_cpu.loading import plan_from_arguments
from llama_cpu.locations import model_folder
from llama_cpu.tui.app import ChatApp
from llama_cpu.tui.chat_screen import ChatScreen

QUESTIONS = (
    "What is the capital of France?",
    "And of Germany?",
    "Write a Python function that returns the nth Fibonacci number.",
)


async def main() -> None:
    args = chat_parser("make_screenshot").parse_args(["--temperature", "0"])
    plan = plan_from_arguments(args)
    app = ChatApp(plan, session_opener(plan, args))
    async with app.run_test(size=(120, 48)) as pilot:
        while not isinstance(app.screen, ChatScreen):
            await pilot.pause(0.1)
        for question in QUESTIONS:
            await pilot.press(*question, "enter")
            await pilot.pause(1)
            while app.screen.answering.is_busy:
                await pilot.pause(0.2)
        await pilot.pause(1.5)
        app.save_screenshot("screenshot.svg", path=str(Path(__file__).parent))
    app.close()


if __name__ == "__main__":
    os.environ["HOME"] = str(model_folder().parent.parent)  # the picture shows ~, not a folder
    asyncio.run(main())
