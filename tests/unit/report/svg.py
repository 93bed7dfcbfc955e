"""What is in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
_USE = f"{SVG}use"


def texts(picture: str) -> list[str]:
    """Its words, in the order in which they are drawn."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def marks(picture: str) -> list[list[tuple[float, float]]]:
    """Where the points of each line are, within the axes: keys beside them have marks, too, but are not cut off."""
    root = ElementTree.fromstring(picture)
    groups = [group for group in root.iter(f"{SVG}g") if "clip-path" in group.attrib]
    found = [[(float(use.attrib["x"]), float(use.attrib["y"])) for use in group.iter(_USE)] for group in groups]
    return [line for line in found if line]


@dataclass(frozen=True)
class Label:
    """A word that lies flat: from where to where its letters reach, about."""

    text: str
    left: float
    right: float
    baseline: float
    size: float

    def touches(self, other: Label) -> bool:
        beside = self.right < other.left or other.right < self.left
        return not beside and abs(self.baseline - other.baseline) < 0.8 * self.size


def labels(picture: str) -> list[Label]:
    """All words but those that are turned."""
    found = []
    for text in ElementTree.fromstring(picture).iter(f"{SVG}text"):
        style = dict(item.split(": ") for item in text.attrib["style"].split("; "))
        size, word = float(style["font-size"].removesuffix("px")), "".join(text.itertext())
        width = 0.55 * size * len(word)
        left = float(text.attrib["x"]) - {"start": 0, "middle": width / 2, "end": width}[style["text-anchor"]]
        if "rotate(-0 " in text.attrib["transform"]:
            found.append(Label(word, left, left + width, float(text.attrib["y"]), size))
    return found
