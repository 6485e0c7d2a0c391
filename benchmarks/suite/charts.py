"""Bar charts as SVG, with no library; they look at whether the reader's page is light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH = 860
_LABELS, _VALUES, _MARGIN = 300, 90, 16
_ROW, _BAR, _HEAD, _GAP = 20, 13, 34, 18
#: A bar is cut where it is so many times as long as the longest that is to be seen in full.
_CUT = 1.6

_STYLE = """
  :root { --ground: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d1d9e0;
          --ours: #0a66c2; --peer: #9aa4af; --limit: #1a7f37; }
  @media (prefers-color-scheme: dark) {
    :root { --ground: #0d1117; --ink: #e6edf3; --faint: #9198a1; --line: #3d444d;
            --ours: #58a6ff; --peer: #6e7781; --limit: #3fb950; }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--ink); }
  .title { font-weight: 600; font-size: 13px; }
  .faint { fill: var(--faint); }
  .ours { fill: var(--ours); } .peer { fill: var(--peer); } .limit, .serial { fill: var(--limit); }
  .ground { fill: var(--ground); } .line { stroke: var(--line); stroke-width: 1; }
  .tear { stroke: var(--ground); stroke-width: 3; }
"""


@dataclass(frozen=True)
class Bar:
    """One bar; `kind` is that of the contestant, and gives the colour."""

    label: str
    value: float
    text: str
    kind: str


@dataclass(frozen=True)
class Panel:
    """Bars that have one scale."""

    title: str
    bars: Sequence[Bar]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>\n'


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}"/>\n'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>\n'


def _drawing(title: str, height: float, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'width="{_WIDTH}" height="{height:.0f}">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f"{_rectangle(0, 0, _WIDTH, height, 'ground')}{content}</svg>\n"
    )


def bars(title: str, panels: Sequence[Panel]) -> str:
    """Horizontal bars from zero. One far longer than ours and the best peers' is cut, and shows it."""
    y, content = float(_MARGIN), ""
    for panel in panels:
        content += _text(_MARGIN, y + 14, panel.title, "title")
        y += _HEAD - 10
        longest = _longest(panel.bars)
        for bar in panel.bars:
            content += _bar(bar, y, longest)
            y += _ROW
        content += _line(_LABELS, y - _ROW * len(panel.bars) - 3, _LABELS, y - 3, "line")
        y += _GAP
    return _drawing(title, y, content)


def _longest(bars: Sequence[Bar]) -> float:
    """The value at which bars are cut."""
    ours = [bar.value for bar in bars if bar.kind == "ours"]
    peers = sorted(bar.value for bar in bars if bar.kind == "peer")
    in_full = max([*ours, *peers[:2]], default=1.0)
    return min(_CUT * in_full, max((bar.value for bar in bars), default=1.0)) or 1.0


def _bar(bar: Bar, y: float, longest: float) -> str:
    room = _WIDTH - _LABELS - _VALUES - _MARGIN
    length = max(1.5, room * min(1.0, bar.value / longest))
    content = _text(_LABELS - 8, y + _BAR - 2, bar.label, "" if bar.kind == "ours" else "faint", "end")
    content += _rectangle(_LABELS, y, length, _BAR, bar.kind)
    if bar.value > longest:
        tear = _LABELS + length - 16
        content += _line(tear, y + _BAR + 1, tear + 6, y - 1, "tear")
    return content + _text(_LABELS + length + 6, y + _BAR - 2, bar.text)


def ratios(title: str, panel: Panel) -> str:
    """Bars from 1 to the left (faster) and to the right (slower), by the logarithm."""
    left, right = 430.0, _WIDTH - 70.0  # with room for the figures on both sides
    reach = max([0.5, *(abs(math.log2(bar.value)) for bar in panel.bars)])
    middle, unit = (left + 50 + right) / 2, (right - left - 50) / 2 / reach
    y = float(_MARGIN + _HEAD)
    height = y + _ROW * len(panel.bars) + _GAP
    content = _text(_MARGIN, _MARGIN + 14, panel.title, "title")
    step = max(1, math.ceil(reach / 4))
    for power in range(-int(reach), int(reach) + 1):
        if power % step == 0:
            x = middle + unit * power
            content += _line(x, y - 6, x, height - _GAP, "line")
            content += _text(x, y - 10, f"{2.0**power:g}x", "faint", "middle")
    for bar in panel.bars:
        end = middle + unit * math.log2(bar.value)
        content += _text(left - 24, y + _BAR - 2, bar.label, "faint", "end")
        content += _rectangle(min(middle, end), y, max(1.5, abs(end - middle)), _BAR, bar.kind)
        anchor, x = ("end", end - 4) if end < middle else ("start", end + 4)
        content += _text(x, y + _BAR - 2, bar.text, "", anchor)
        y += _ROW
    return _drawing(title, height, content)
