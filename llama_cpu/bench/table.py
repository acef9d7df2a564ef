"""A report as lines of text: sections of aligned columns."""

from collections.abc import Iterator, Sequence

from llama_cpu.bench.measure import Speed
from llama_cpu.bench.report import Report
from llama_cpu.system.text import human_bytes, printable

Row = Sequence[str]


def lines(report: Report) -> list[str]:
    """Return the lines of all sections, with an empty line between them."""
    sections = [
        _aligned(_subject(report)),
        _aligned(_products(report)),
        _aligned(_speeds(report)),
        _aligned(_memory(report)),
        _aligned(_limits(report)),
        [f"Note: {printable(note)}" for note in report.results.notes],
    ]
    result: list[str] = []
    for section in filter(None, sections):
        result += ["", *section] if result else section
    return result


def _aligned(rows: Iterator[Row]) -> list[str]:
    """Align the columns: the first to the left, and the others to the right if there are several.

    The rows of one section have the same number of cells.
    """
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    several = len(widths) > 2
    return [
        "  ".join(
            cell.rjust(width) if several and number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _subject(report: Report) -> Iterator[Row]:
    plan = report.plan
    mapped = ", memory-mapped" if plan.mmap else ""
    cache = str(plan.cache_dtype).removeprefix("torch.")
    yield "processor", report.processor
    yield "threads", str(plan.threads)
    yield "model", printable(plan.name).replace("\n", " ")
    yield "weight format", f"{plan.precision.label}{mapped}"
    yield "KV cache", f"{cache}, up to {plan.max_seq_len:,} tokens"
    yield "product of layers", plan.products.product.name
    yield "product in place", plan.products.in_place.name


def _products(report: Report) -> Iterator[Row]:
    """Yield the seconds behind the choice of products, if there was one."""
    if report.measurement is None:
        return
    rows, columns = report.sample
    seconds = report.measurement.seconds
    numbers = sorted(next(iter(seconds.values())))
    yield f"ms for {rows} x {columns} by rows", *map(str, numbers)
    for name, times in seconds.items():
        yield name, *(f"{1e3 * times[number]:.3g}" for number in numbers)


def _speeds(report: Report) -> Iterator[Row]:
    results = report.results
    yield (
        "speed",
        "tokens/s",
        "of the limit",
        results.llama_cpp and "llama.cpp",
        (results.llama_cpp and "ratio"),
    )
    if results.prefill:
        yield f"prefill of {results.prefill.tokens:,} tokens", *_cells(results.prefill)
    for speed in results.decode:
        yield f"decode after {speed.tokens:,} tokens", *_cells(speed)
    if rows := results.several_rows:
        name = f"{rows.rows} rows after {rows.context:,} tokens, time relative to 1 row"
        yield name, f"{rows.relative:.2f}", "", "", ""


def _cells(speed: Speed) -> Row:
    return (
        _number(speed.rate),
        "" if speed.of_limit is None else f"{100 * speed.of_limit:.0f}%",
        "" if speed.llama_cpp_rate is None else _number(speed.llama_cpp_rate),
        "" if speed.ratio is None else f"{speed.ratio:.2f}",
    )


def _memory(report: Report) -> Iterator[Row]:
    memory, estimate = report.memory, report.estimate
    yield "memory", "measured", "estimate"
    yield "weights", human_bytes(report.weights_bytes), human_bytes(estimate.weights)
    context = report.plan.max_seq_len
    yield (
        f"KV cache, {report.kv_cache_tokens:,} of {context:,} tokens",
        human_bytes(report.kv_cache_used),
        human_bytes(estimate.kv_cache),
    )
    yield "process", human_bytes(memory.resident), ""
    yield "process, at the peak", human_bytes(memory.peak), human_bytes(estimate.total)


def _limits(report: Report) -> Iterator[Row]:
    limits, ways = report.limits, report.results.ways
    if not limits:
        return
    yield "limits of this machine", "per second", "by"
    for name, speed in limits.items():
        is_read = name == "read"
        what = "memory reading" if is_read else f"matrix product in {name}"
        rate = f"{speed / 1e9:,.1f} GB" if is_read else f"{speed / 1e9:,.0f} GFLOP"
        yield what, rate, ways.get(name, "")


def _number(value: float) -> str:
    """Return three digits, or all digits of the whole part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
