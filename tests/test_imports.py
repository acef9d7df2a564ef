"""The order of docs/architecture.md: a file imports what stands above it, or in its own row."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llama_cpu"


def listed_rows() -> dict[str, int]:
    """Row of every file (``config``) and folder (``chat``) that the table's first column names."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| file | what it knows |")[1].split("\n\n")[0]
    rows: dict[str, int] = {}
    for number, line in enumerate(table.splitlines()):
        for name in re.findall(r"`([\w/]+)`", line.split("|")[1] if "|" in line else ""):
            assert name not in rows, f"{name} is listed twice"
            rows[name.rstrip("/")] = number
    return rows


ROWS = listed_rows()
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part(path: Path) -> str:
    """What the table calls it: the folder in the package, or the file without its suffix."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(node: ast.AST) -> Iterator[str]:
    """Also those within functions, but not what is only for the type checker."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.orelse:
            yield from imported_parts(child)
        return
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the package"
        modules = [f"{node.module}.{alias.name}" for alias in node.names]
    for module in modules:
        package, _, rest = module.partition(".")
        if package == "llama_cpu" and rest != "__version__":
            yield rest.split(".")[0]
    for inner in ast.iter_child_nodes(node):
        yield from imported_parts(inner)


def test_every_file_is_listed_and_exists() -> None:
    assert {part(path) for path in FILES} == ROWS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_upwards(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    below = {name for name in imported_parts(tree) if ROWS[name] > ROWS[part(path)]}
    assert not below, f"{part(path)} stands above {sorted(below)} in docs/architecture.md"


def test_the_test_sees_imports() -> None:
    source = (
        "import llama_cpu.cli.main\nfrom llama_cpu import __version__, chat\n"
        "if TYPE_CHECKING:\n    from llama_cpu.tui.app import run_app\n"
        "def f():\n    from llama_cpu.checkpoint.meta import open_meta\n"
    )
    assert list(imported_parts(ast.parse(source))) == ["cli", "chat", "checkpoint"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported_modules(tree: ast.AST) -> set[str]:
    """Modules of the package that are imported anywhere: also in functions and for type checks."""
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {"", "llama_cpu"}


def test_there_is_no_import_cycle() -> None:
    """Not even among imports that are only for the type checker."""
    graph = {
        name: imported_modules(ast.parse(path.read_text(encoding="utf-8"))) - {name}
        for name, path in MODULES.items()
    }
    assert sum(map(len, graph.values())) > len(graph)  # the imports were found
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"import cycle: {' -> '.join(error.args[1])}") from error


def test_the_graph_has_every_kind_of_import() -> None:
    source = (
        "from llama_cpu.chat.session import ChatSession\nfrom llama_cpu import errors\n"
        "if TYPE_CHECKING:\n    import llama_cpu.tui.app\n"
        "def f():\n    from llama_cpu.system import text\n"
    )
    names = ("chat.session", "errors", "tui.app", "system.text")
    assert imported_modules(ast.parse(source)) == {f"llama_cpu.{name}" for name in names}


LAYERS = ("widgets", "controllers", "screens", "app")  # of the app, from the lowest


@pytest.mark.parametrize("layer", LAYERS)
def test_the_layers_of_the_app(layer: str) -> None:
    """Widgets know no controllers, and controllers know neither widgets nor screens."""
    above = LAYERS[LAYERS.index(layer) + 1 :]
    forbidden = (*above, "widgets") if layer == "controllers" else above
    for name, path in MODULES.items():
        if name.startswith(f"llama_cpu.tui.{layer}"):
            for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
                assert not module.startswith(
                    tuple(f"llama_cpu.tui.{each}" for each in forbidden)
                ), f"{name} imports {module}"


def test_the_app_is_on_the_screen_before_torch_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, llama_cpu.tui.app; print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_loading_a_model_brings_no_code_that_writes_one() -> None:
    readers = "import sys, llama_cpu.loading.load, llama_cpu.checkpoint.meta\n"
    readers += "import llama_cpu.checkpoint.hugging_face, llama_cpu.checkpoint.gguf\n"
    writers = ("block_copy", "pth_writer", "safetensors_writer", "merge", "quantizing")
    names = {f"llama_cpu.conversion.{name}" for name in writers} | {"isal"}
    done = subprocess.run(
        [sys.executable, "-c", f"{readers}print({names!r} & sys.modules.keys())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
