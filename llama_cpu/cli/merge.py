"""``llama-cpu merge``: find the shards, ask before overwriting, write, and report."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpu.cli.options import add_debug_argument
from llama_cpu.errors import UserError
from llama_cpu.system.atomic_files import AtomicFiles, remove_leftovers
from llama_cpu.system.fields import Fields
from llama_cpu.system.paths import model_folder, tokenizer_folder
from llama_cpu.system.safe_reading import read_json, read_small_file, reason
from llama_cpu.weights.formats import FORMATS
from llama_cpu.weights.weight_format import WeightFormat

if TYPE_CHECKING:  # it imports PyTorch, which --help does not need
    from llama_cpu.checkpoint.meta import PthReader
    from llama_cpu.conversion.merge import Tensors, Written

# Each published size: the number of shards, and the width (the dimension "dim"). The LLaMA paper
# calls the 30B model 33B.
SIZES = {
    "7B": (1, 4096),
    "13B": (2, 5120),
    "30B": (4, 6656),
    "33B": (4, 6656),
    "65B": (8, 8192),
    "70B": (8, 8192),
}
_WRITTEN = ("merged.pth", "model.safetensors", "consolidated.??.pth", "params.json")


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--model_size",
        metavar="SIZE",
        help="7B, 13B, 30B, 33B, 65B, 70B, or the name of another model's folder",
    )
    parser.add_argument(
        "--input_dir",
        type=Path,
        metavar="DIR",
        help="folder that contains 13B/, 30B/ and so on (default: LLaMA/, then the current "
        "folder), or the folder of one model; with --split, the model to split (default: model/)",
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help="folder for the result (default: model/; with --split N, model/split-N/)",
    )
    parser.add_argument(
        "--tokenizer_dir",
        type=Path,
        metavar="DIR",
        help="folder that tokenizer.model is copied to, unless it has one (default: tokenizer/)",
    )
    dtype = parser.add_mutually_exclusive_group()
    for each in (each for each in FORMATS if each.merge_switch):
        dtype.add_argument(
            each.merge_switch,
            dest="weight_format",
            action="store_const",
            const=each,
            help=each.merge_help,
        )
    parser.add_argument(
        "--format",
        choices=("pth", "safetensors"),
        default="pth",
        help="pth writes merged.pth (the default), safetensors writes model.safetensors",
    )
    parser.add_argument(
        "--split", type=int, metavar="N", help="the reverse: split a model into N shards"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read the result back and compare it with the input"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files without asking")
    add_debug_argument(parser)


def run_merge(args: argparse.Namespace) -> int:
    """Run the command. Returns exit code 1 if the user declined to overwrite. Raises UserError."""
    if args.split is not None and not 1 <= args.split <= 100:
        raise UserError(f"--split is {args.split}, but must be from 1 to 100.")
    if args.split is not None and args.format != "pth":
        raise UserError("--split writes .pth shards only; leave out --format.")
    chosen: WeightFormat | None = args.weight_format
    if args.split is not None and chosen is not None and not chosen.can_be_split:
        raise UserError(
            f"--split cannot write {chosen.label}, because quantized rows are not split; "
            f"leave out {chosen.merge_switch}."
        )
    source = _model_to_split(args) if args.split else find_shard_folder(args)
    output = args.output_dir or _default_output(args.split)
    _refuse_same_folder(source, output)
    files = _open(source, args)
    params = read_small_file(source / "params.json")
    remove_leftovers(output, _WRITTEN)
    _refuse_other_weights(output, files)
    _refuse_special_files(output, files)
    if not args.force and not _may_overwrite(output, files, params):
        print("Nothing was changed.")
        return 1
    with _termination_cleans_up():
        _write(files, params, source, output, args)
        if not args.split:
            _copy_tokenizer(source, args.tokenizer_dir or tokenizer_folder())
    return 0


def find_shard_folder(args: argparse.Namespace) -> Path:
    """Find the folder of the model that the options name. Raises UserError."""
    size, given = args.model_size, args.input_dir
    if size is None and given is None:
        raise UserError(
            "No model was named; use --model_size 13B, or --input_dir with the model's folder."
        )
    candidates = []
    if size is not None:
        parents = [given] if given is not None else [Path("LLaMA"), Path()]
        candidates = [parent / name for parent in parents for name in _folder_names(size)]
    for folder in candidates:
        if (folder / "params.json").is_file():
            _check_shard_count(folder, size)
            return Path(folder)
    if given is not None:
        candidates.append(given)
        if (given / "params.json").is_file():
            _check_is_that_size(given, size)
            return Path(given)
    looked_for = ", ".join(str(folder / "params.json") for folder in candidates)
    raise UserError(
        f"No model was found (looked for {looked_for}); name its folder with --input_dir."
    )


def _folder_names(size: str) -> list[str]:
    if size.upper() not in SIZES:
        return [size]
    names = {"30B": ["30B", "33B"], "33B": ["33B", "30B"]}.get(size.upper(), [size.upper()])
    return list(dict.fromkeys([size, *names]))


def _check_is_that_size(folder: Path, size: str | None) -> None:
    """Make sure that the model in --input_dir, which may be any model, has the named size."""
    if size is None or folder.resolve().name.upper() in map(str.upper, _folder_names(size)):
        _check_shard_count(folder, size)
        return
    if size.upper() not in SIZES:
        raise UserError(
            f"{folder} holds a model but no folder {size}; leave out --model_size if you mean "
            "that model."
        )
    _check_shard_count(folder, size)
    params_file = folder / "params.json"
    dim = Fields(read_json(params_file), params_file).integer("dim", 1, 1 << 20)
    wanted = SIZES[size.upper()][1]
    if dim != wanted:
        raise UserError(
            f"{folder} holds a model of width {dim}, but {size} has {wanted}; name the "
            "right --model_size, or none if you mean that model."
        )


def _check_shard_count(folder: Path, size: str | None) -> None:
    from llama_cpu.checkpoint.meta import find_shards

    count = len(find_shards(folder))
    if size is None or size.upper() not in SIZES:
        return
    wanted = SIZES[size.upper()][0]
    if count != wanted:
        raise UserError(
            f"{folder} holds {count} shard{'s' if count > 1 else ''}, but {size} has {wanted}; "
            "get the missing files, or name the right --model_size (or none, with --input_dir)."
        )


def _model_to_split(args: argparse.Namespace) -> Path:
    if args.model_size is not None:
        return find_shard_folder(args)
    folder: Path = args.input_dir or model_folder()
    if not (folder / "params.json").is_file():
        raise UserError(f"{folder} holds no params.json; name the model to split with --input_dir.")
    return folder


def _default_output(split_count: int | None) -> Path:
    return model_folder() / f"split-{split_count}" if split_count else model_folder()


def _refuse_same_folder(source: Path, output: Path) -> None:
    if output.resolve() == source.resolve():
        raise UserError(
            f"The output would go into the input folder, {source}; name another --output_dir."
        )


def _open(
    source: Path, args: argparse.Namespace, read: "PthReader | None" = None
) -> "dict[str, Tensors]":
    """Open the input and return the tensors of each file to write. ``read`` None: our reader."""
    from llama_cpu.checkpoint.meta import open_meta, open_shards
    from llama_cpu.checkpoint.pth import read_pth
    from llama_cpu.conversion.merge import split
    from llama_cpu.conversion.quantizing import quantized

    if args.split:
        return split(open_meta(source, read or read_pth), args.split)
    name = "merged.pth" if args.format == "pth" else "model.safetensors"
    tensors = open_shards(source, read or read_pth).tensors
    return {name: quantized(tensors, args.weight_format) if args.weight_format else tensors}


def _refuse_other_weights(output: Path, files: Mapping[str, Any]) -> None:
    """Refuse an output that would be ignored.

    The loader prefers merged.pth to shards, and shards to model.safetensors.
    """
    if "merged.pth" in files:
        return
    for path in [*output.glob("merged.pth"), *output.glob("consolidated.*.pth")]:
        if path.name not in files:
            raise UserError(
                f"{path} exists already and would be loaded instead of {next(iter(files))}; "
                "move it away or name another --output_dir."
            )


def _refuse_special_files(output: Path, files: Mapping[str, Any]) -> None:
    """Refuse a pipe or device in the place of a file to write: reading it might never end."""
    for path in (output / name for name in (*files, "params.json")):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is not a file; move it away or name another --output_dir.")


def _may_overwrite(output: Path, files: Mapping[str, Any], params: bytes) -> bool:
    existing = [output / name for name in files if (output / name).exists()]
    params_file = output / "params.json"
    if params_file.exists() and params_file.read_bytes() != params:
        existing.append(params_file)
    if not existing:
        return True
    names = " and ".join(map(str, existing))
    if not sys.stdin.isatty():
        raise UserError(f"{names} would be overwritten; add --force to confirm.")
    try:
        return input(f"Overwrite {names}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl+D
        print()
        return False


@contextmanager
def _termination_cleans_up() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that ``finally`` clauses run as with Ctrl+C."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python sets signal handlers in the main thread only
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(
    files: "Mapping[str, Tensors]",
    params: bytes,
    source: Path,
    output: Path,
    args: argparse.Namespace,
) -> None:
    from llama_cpu.checkpoint.pth import read_pth_with_torch
    from llama_cpu.cli.merge_display import MergeDisplay
    from llama_cpu.conversion.merge import total_bytes, write_model

    dtype = args.weight_format.operations.file_dtype if args.weight_format else None
    total = sum(total_bytes(tensors, dtype) for tensors in files.values())

    def read_again() -> "Mapping[str, Tensors]":
        display.begin("Verifying")
        return _open(source, args, read_pth_with_torch)

    with MergeDisplay(total) as display:
        display.begin("Writing")
        written = write_model(
            files,
            params,
            output,
            dtype,
            display.advance,
            read_again=read_again if args.verify else None,
        )
    _report(written, [output / name for name in files], display.peak, args.verify)


def _report(written: "Written", paths: list[Path], peak: int, verified: bool) -> None:
    names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    seconds = max(written.seconds, 1e-6)
    print(
        f"{names}: {written.size / 1e9:.2f} GB in {seconds:.2f} s "
        f"({written.size / 1e6 / seconds:.0f} MB/s), {written.sync_seconds:.2f} s more to sync it "
        f"to disk; anonymous memory at most {peak / 1e6:.0f} MB"
        + ("; read back and compared: identical." if verified else ".")
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy tokenizer.model, which is beside the shards (Llama 2, 3) or one folder up (LLaMA 1)."""
    if (folder / "tokenizer.model").exists():
        return
    for candidate in (source / "tokenizer.model", source.resolve().parent / "tokenizer.model"):
        if candidate.is_file():
            break
    else:
        print(f"No tokenizer.model was found in or above {source}; copy it into {folder} yourself.")
        return
    try:
        remove_leftovers(folder, ["tokenizer.model"])
        with AtomicFiles(folder) as atomic_files:
            atomic_files.open("tokenizer.model").write(candidate.read_bytes())
            atomic_files.publish()
    except OSError as error:
        raise UserError(
            f"{candidate} cannot be copied into {folder} ({reason(error)}); copy it yourself."
        ) from error
    print(f"{folder / 'tokenizer.model'}: copied from {candidate}.")
