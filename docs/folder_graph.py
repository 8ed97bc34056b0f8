# SPDX-License-Identifier: Apache-2.0
"""Draw the folders of sfseg_ros and their imports: `python -m docs.folder_graph`.

A folder with everything below it is one room; so is each file beside the folders. The imports are
read from the source without running it. `python -m docs.folder_graph` writes the drawing to
docs/images/folder_graph.svg; test/test_import_rules.py fails if that file is out of date.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DRAWING = ROOT / "docs" / "images" / "folder_graph.svg"

# Not drawn, because every room may use it.
EVERYWHERE = "errors"

Graph = Mapping[str, set[str]]
"""For each node, the nodes that it imports; every node is a key."""


def imported_modules(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import in a file, also inside functions.

    `from a import b` yields both `a` and `a.b`, because `b` may be a module.
    """
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *([node.module] if node.module else [])))
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def room_of(module: str, package: str = "sfseg_ros") -> str | None:
    """Return the room of a dotted name below a package, or None for other modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == package and len(parts) > 1 else None


def room_graph(root: Path, package: str = "sfseg_ros") -> Graph:
    """Return the rooms of a package below `root` and the rooms that each of them imports."""
    graph: dict[str, set[str]] = {}
    for path in sorted((root / package).rglob("*.py")):
        room = room_of(".".join(path.relative_to(root).with_suffix("").parts), package)
        if room is None or room == "__init__":
            continue
        imported = {room_of(module, package) for _, module in imported_modules(path, root)}
        graph.setdefault(room, set()).update(filter(None, imported - {room}))
    return graph


def folders(root: Path, package: str) -> Graph:
    """Return the folders of a package below `root` and the folders that each of them imports.

    Each subfolder counts for itself, and each file directly in the package as a folder.
    """
    folder_of: dict[str, str] = {}
    paths = sorted((root / package).rglob("*.py"))
    for path in paths:
        parts = path.relative_to(root).with_suffix("").parts
        module, parent = ".".join(parts).removesuffix(".__init__"), ".".join(parts[:-1])
        folder_of[module] = module if parent == package else parent
    graph: dict[str, set[str]] = {folder: set() for folder in folder_of.values()}
    for path, folder in zip(paths, folder_of.values(), strict=True):
        imported = {folder_of.get(module, folder) for _, module in imported_modules(path, root)}
        graph[folder] |= imported - {folder, package}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of two or more nodes, each sorted."""
    reached = {node: _reachable(graph, node) for node in graph}
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached[other]))
        for node in graph
        if node in reached[node]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(graph: Graph, start: str) -> set[str]:
    """All nodes that a path of one or more imports leads to."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph[node])
    return found


def rows_of(graph: Graph) -> list[list[str]]:
    """Return rows of rooms, highest first; a room stands one row below the lowest that imports it.

    Within a row, rooms stand below the rooms that import them.
    """
    users = {room: sorted(user for user in graph if room in graph[user]) for room in graph}
    rows: list[list[str]] = []
    place: dict[str, float] = {}
    waiting = sorted(graph)
    while waiting:
        row = [room for room in waiting if not set(users[room]) & set(waiting)]
        where = {room: [place[user] for user in users[room]] or [0.5] for room in row}
        row.sort(key=lambda room: sum(where[room]) / len(where[room]))
        place |= {room: (number + 0.5) / len(row) for number, room in enumerate(row)}
        rows.append(row)
        waiting = [room for room in waiting if room not in row]
    return rows


def without_shortcuts(graph: Graph) -> Graph:
    """Leave out each arrow whose end a longer path reaches too."""
    return {
        room: below - set().union(*(_reachable(graph, other) for other in below))
        for room, below in graph.items()
    }


BOX_WIDTH, BOX_HEIGHT, GAP_X, GAP_Y, MARGIN = 132, 32, 24, 58, 16


def svg_from(graph: Graph) -> str:
    """Return the drawing as SVG: rooms in rows, an arrow from each room to the rooms it imports.

    Arrows that follow from others and arrows to `errors` are left out.
    """
    drawn = without_shortcuts(
        {room: below - {EVERYWHERE} for room, below in graph.items() if room != EVERYWHERE}
    )
    rows = rows_of(drawn)
    width = 2 * MARGIN + max(len(row) for row in rows) * (BOX_WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    corner: dict[str, tuple[float, int]] = {}
    for number, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for place, room in enumerate(row):
            corner[room] = (
                left + place * (BOX_WIDTH + GAP_X),
                MARGIN + number * (BOX_HEIGHT + GAP_Y),
            )
    arrows = [
        _arrow(corner[room], corner[below])
        for room, imported in sorted(drawn.items())
        for below in sorted(imported)
    ]
    boxes = [_box(room, *corner[room]) for room in sorted(corner)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            "<title>The folders of sfseg_ros and the folders that each of them imports</title>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#6b7280"/></marker>'
            "</defs>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def _arrow(start: tuple[float, int], end: tuple[float, int]) -> str:
    x1, y1 = start[0] + BOX_WIDTH / 2, start[1] + BOX_HEIGHT
    x2, y2 = end[0] + BOX_WIDTH / 2, end[1]
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:g} {y1}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2}"'
        ' fill="none" stroke="#6b7280" stroke-width="1.3" marker-end="url(#head)"/>'
    )


def _box(room: str, x: float, y: int) -> str:
    is_folder = (ROOT / "sfseg_ros" / room).is_dir()
    name, fill = (f"{room}/", "#dbeafe") if is_folder else (f"{room}.py", "#f3f4f6")
    return (
        f'<rect x="{x:g}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{fill}"'
        ' stroke="#4b5563"/>'
        f'<text x="{x + BOX_WIDTH / 2:g}" y="{y + BOX_HEIGHT / 2 + 5:g}" text-anchor="middle"'
        f' font-family="sans-serif" font-size="14" fill="#111827">{name}</text>'
    )


def counts_of(graph: Graph) -> str:
    """Return the number of rooms and arrows in one line."""
    arrows: Iterable[int] = (len(below) for below in graph.values())
    return f"{len(graph)} rooms, {sum(arrows)} arrows"


def main() -> None:
    """Write the drawing and print its counts."""
    graph = room_graph(ROOT)
    DRAWING.parent.mkdir(parents=True, exist_ok=True)
    DRAWING.write_text(svg_from(graph), encoding="utf-8")
    print(f"{DRAWING.relative_to(ROOT)}: {counts_of(graph)}")


if __name__ == "__main__":
    main()
