"""Screenshots in a third of the bytes, as they lie in the repository."""

import re

_RECT = re.compile(
    r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    r' shape-rendering="crispEdges"/>'
)
_NEEDLESS = (
    r"@font-face \{.*?\}\s*",  # addresses of fonts; without them the reader's own monospaced one
    r'<clipPath id="[\w-]+-line-\d+">.*?</clipPath>\s*',  # no text is wider than its place
    r' clip-path="url\(#[\w-]+-line-\d+\)"',
    r"<text [^>]*>(&#160;|\s)*</text>",
)
Area = tuple[str, float, float, float, float]  # fill, x, y, width, height


def smaller(svg: str) -> str:
    """The same picture: areas of one colour joined, and without what is not seen. What was done
    already is left as it is."""
    for needless in _NEEDLESS:
        svg = re.sub(needless, "", svg, flags=re.DOTALL)
    first = _RECT.search(svg)
    if not first:
        return svg
    found = [_area(match) for match in _RECT.finditer(svg)]
    paths = "\n".join(_paths(_joined(found)))
    return _RECT.sub("", svg[: first.start()]) + paths + _RECT.sub("", svg[first.start() :])


def _area(rect: re.Match[str]) -> Area:
    x, y, width, height = map(float, rect.groups()[1:])
    return rect[1], x, y, width, height


def _joined(cells: list[Area]) -> list[Area]:
    """Neighbours of one colour as one, first along the rows, then below each other."""
    rows: list[Area] = []
    for fill, x, y, width, height in cells:
        if (
            rows
            and rows[-1][0] == fill
            and rows[-1][2] == y
            and _meet(rows[-1][1] + rows[-1][3], x)
        ):
            _, x, _, before, _ = rows.pop()
            width += before
        rows.append((fill, x, y, width, height))
    columns: dict[tuple[str, float, float], list[Area]] = {}
    for fill, x, y, width, height in rows:
        column = columns.setdefault((fill, round(x, 1), round(width, 1)), [])
        if column and column[-1][2] + column[-1][4] >= y:
            _, _, top, _, _ = column.pop()
            height, y = y + height - top, top
        column.append((fill, x, y, width, height))
    return [area for column in columns.values() for area in column]


def _meet(end: float, start: float) -> bool:
    return abs(end - start) < 0.1


def _paths(areas: list[Area]) -> list[str]:
    """One path a colour."""
    drawn: dict[str, str] = {}
    for fill, x, y, width, height in areas:
        line = f"M{x:.6g} {y:.6g}h{width:.6g}v{height:.6g}h-{width:.6g}z"
        drawn[fill] = drawn.get(fill, "") + line
    return [
        f'<path fill="{fill}" shape-rendering="crispEdges" d="{line}"/>'
        for fill, line in drawn.items()
    ]
