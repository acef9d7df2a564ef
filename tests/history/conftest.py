import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_cpu.history.store import History

ROOT = Path(__file__).parent.parent.parent
Start = Callable[..., subprocess.Popen]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture
def history(database: Path) -> Iterator[History]:
    with History(database) as history:
        yield history


@pytest.fixture
def start(database: Path) -> Iterator[Start]:
    """Start a process that runs some code with ``history`` open; at the end none is left."""
    processes: list[subprocess.Popen] = []

    def start(code: str, *words: object) -> subprocess.Popen:
        opening = (
            "import sys\nfrom pathlib import Path\n"
            "from llama_cpu.history.rows import State\n"
            "from llama_cpu.history.store import History\n"
            "history = History(Path(sys.argv[1]))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", opening + code, str(database), *map(str, words)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
