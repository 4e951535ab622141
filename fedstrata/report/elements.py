"""SVG elements: a small drawing that escapes every text; colors are classes of the page's style."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

from fedstrata.protocol.limits import printable

WIDTH = 420  # units of every drawing: at 12 units a text is legible on a telephone
CHARACTER = 6.4  # units of an average character of 12 units


class Drawing:
    """An SVG image under construction.

    Parameters
    ----------
    height : float
        In units; a drawing is `WIDTH` wide unless ``width`` says otherwise.
    title : str
        What it shows, for who cannot see it.
    width : float, optional
        In units.
    """

    def __init__(self, height: float, title: str, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self.root = ElementTree.Element(
            "svg", viewBox=f"0 0 {_number(width)} {_number(height)}", role="img"
        )
        self.root.set("class", "chart")
        self.root.set("aria-label", printable(title))

    def shape(self, tag: str, css: str = "", about: str = "", **attributes: object) -> None:
        """Add an element; ``_`` in names of attributes is ``-``, ``about`` shows on hovering."""
        made = ElementTree.SubElement(self.root, tag)
        if css:
            made.set("class", css)
        for key, value in attributes.items():
            text = _number(value) if isinstance(value, int | float) else printable(str(value))
            made.set(key.replace("_", "-"), text)
        if about:
            ElementTree.SubElement(made, "title").text = printable(about)

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """Add a straight line."""
        self.shape("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def polyline(self, points: list[tuple[float, float]], css: str) -> None:
        """Add a line through points."""
        self.shape("polyline", css, points=_points(points))

    def polygon(self, points: list[tuple[float, float]], css: str) -> None:
        """Add a filled area."""
        self.shape("polygon", css, points=_points(points))

    def text(self, x: float, y: float, text: str, css: str = "", about: str = "") -> None:
        """Add a text; ``css`` of ``end`` or ``middle`` aligns it."""
        made = ElementTree.SubElement(self.root, "text", x=_number(x), y=_number(y))
        if css:
            made.set("class", css)
        made.text = printable(text)
        if about:
            ElementTree.SubElement(made, "title").text = printable(about)

    def mark(self, kind: str, x: float, y: float, css: str, about: str = "") -> None:
        """Add a mark: ``circle``, ``diamond``, ``square``, ``triangle``, ``tick`` or ``cross``."""
        if kind == "circle":
            self.shape("circle", css, about, cx=x, cy=y, r=4.5)
            return
        paths = {
            "diamond": "M0 -5.5L5.5 0L0 5.5L-5.5 0Z",
            "square": "M-4 -4H4V4H-4Z",
            "triangle": "M0 -5L5 4H-5Z",
            "tick": "M0 -7V7",
            "cross": "M-4 -4L4 4M-4 4L4 -4",
        }
        self.shape("path", css, about, d=paths[kind], transform=f"translate({x:.1f} {y:.1f})")

    def markup(self) -> Markup:
        """Return the image as HTML; every text in it is escaped."""
        return _html(self.root)


def fitting(text: str, room: float) -> str:
    """Return ``text`` cut so that it takes ``room`` units."""
    most = max(1, int(room / CHARACTER))
    return text if len(text) <= most else text[: most - 1] + "…"


def legend(entries: list[tuple[str, str, str]]) -> Markup:
    """Return a legend: of each entry the mark (or ``line``, ``band``), its class, and the words."""
    made = ElementTree.Element("ul")
    made.set("class", "legend")
    for kind, css, words in entries:
        item = ElementTree.SubElement(made, "li")
        drawn = Drawing(16, words, width=26)
        drawn.root.set("class", "swatch")
        if kind == "line":
            drawn.line(0, 8, 26, 8, css)
        elif kind == "band":
            drawn.shape("rect", css, x=1, y=2, width=24, height=12)
        else:
            drawn.mark(kind, 13, 8, css)
        item.append(drawn.root)
        drawn.root.tail = " " + printable(words)
    return _html(made)


def _html(element: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(element, encoding="unicode", short_empty_elements=False))


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
