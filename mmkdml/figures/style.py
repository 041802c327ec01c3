"""Style, sizes, colors and files shared by all figures."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib import color_sequences, rc_context, rc_params_from_file, rcParams
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from mmkdml.figures.text import text_width, wrap
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER

#: Widths of figures in inches: a column and both columns of a journal, and a screen.
ONE_COLUMN, TWO_COLUMNS, SCREEN = 3.5, 7.2, 9.6
#: Widths by number of columns of a journal.
COLUMN_WIDTHS = {1: ONE_COLUMN, 2: TWO_COLUMNS}
#: Okabe and Ito's palette, distinct with every kind of color vision; without yellow, which is too
#: light for lines on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'
)  # fmt: skip
GRAY = '#767676'
#: On images: light green and magenta are distinct with every kind of color vision, and bright
#: enough for outlines on false-color MRI and stained tissue.
TRUTH_COLOR, PREDICTION_COLOR = '#00E08A', '#FF3FD8'
#: Bright colors of foreground classes on images.
CLASS_COLORS = (PREDICTION_COLOR, SKY, '#F0E442', ORANGE, '#FFFFFF', '#8C7CFF', '#FF6B5E')
_MEMBER_COLORS = {TEACHER: BLACK, ENSEMBLE: VERMILION, PLAIN: BLUE}
_STUDENT_COLORS = (BLUE, GREEN, PURPLE, ORANGE, SKY)
_STYLE = Path(__file__).with_name('mmkdml.mplstyle')


def member_color(name: str, members: tuple[str, ...] | list[str] = ()) -> str:
    """Return the color of a member, equal in all figures.

    Args:
        name: Name of the member, or ``'ensemble'``.
        members: All members, in order, for those that are not named ``student_<number>``.
    """
    if name in _MEMBER_COLORS:
        return _MEMBER_COLORS[name]
    student = re.fullmatch(r'student_(\d+)', name)
    if student:
        place = int(student[1]) - 1
    else:  # from the end, so that they differ from students
        others = [
            one for one in members if one not in _MEMBER_COLORS and not one.startswith('student_')
        ]
        place = -1 - (others.index(name) if name in others else 0)
    return _STUDENT_COLORS[place % len(_STUDENT_COLORS)]


def class_color(index: int) -> str:
    """Return the color of a foreground class on images; the first one has index 0.

    The first ones suit color-blind readers; colors repeat after 27 classes.
    """
    colors = (*CLASS_COLORS, *map(to_hex, color_sequences['tab20']))
    return colors[index % len(colors)]


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style sheet while a figure is built, and restore matplotlib's settings."""
    with rc_context(rc_params_from_file(_STYLE, use_default_template=False)):
        yield


def save_figure(figure: Figure, *paths: str | os.PathLike, dpi: int | None = None) -> None:
    """Save a figure: PNG for screens, SVG or PDF for papers, by suffix.

    The file holds no date, so that equal figures are equal files. Missing folders are created.

    Args:
        figure: The figure.
        *paths: Files to write.
        dpi: Resolution, also of images in SVG and PDF. Default: that of the style sheet.
    """
    with figure_style():
        _settle(figure)
        for path in map(Path, paths):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(
                path, dpi=dpi or rcParams['savefig.dpi'], metadata=_metadata(path.suffix)
            )


def svg_text(figure: Figure) -> str:
    """Return a figure as the text of an SVG file."""
    file = io.StringIO()
    with figure_style():
        _settle(figure)
        figure.savefig(file, format='svg', metadata=_metadata('.svg'))
    return file.getvalue()


def _settle(figure: Figure) -> None:
    """Compute the layout once before drawing: it changes ticks, whose widths it depends on."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()


def _metadata(suffix: str) -> dict[str, None]:
    return {'.svg': {'Date': None}, '.pdf': {'CreationDate': None}}.get(suffix, {})


def legend_below(figure: Figure, entries: Sequence[Artist] | None = None) -> Legend | None:
    """Add a legend below the axes, in as many rows as its width requires.

    Args:
        figure: Figure with a constrained or compressed layout.
        entries: Handles with labels. Default: those of the first axes that have any.
    """
    handles: list[Artist] = list(entries or ())
    if entries is None:
        handles = next((found for axes in figure.axes if (found := _handles(axes))), [])
    if not handles:
        return None
    size = rcParams['legend.fontsize']
    width = figure.get_figwidth()
    for handle in handles:
        handle.set_label(wrap(str(handle.get_label()), width - 0.6, size))
    lines = [line for handle in handles for line in str(handle.get_label()).split('\n')]
    columns = int(width / (max(text_width(line, size) for line in lines) + 0.55))
    columns = max(1, min(len(handles), columns))
    return figure.legend(handles=handles, loc='outside lower center', ncols=columns)


def _handles(axes: Axes) -> list:
    return axes.get_legend_handles_labels()[0]
