"""Figures with the predictions of each member for selected cases of one or several runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mmkdml.evaluation.mask_panels import TRUTH
from mmkdml.figures import ColorBar, figure_style, save_figure, tile_sheet
from mmkdml.figures.marks import outline
from mmkdml.figures.sheets import PRINT_DPI
from mmkdml.figures.style import PREDICTION_COLOR, TRUTH_COLOR

IMAGE = 'image'
#: Columns that are identical in all runs.
SHARED = (IMAGE, TRUTH)
TRUE_OUTLINE, PREDICTED_OUTLINE = 'true outline', 'predicted outline'
OUTLINES = {TRUE_OUTLINE: TRUTH_COLOR, PREDICTED_OUTLINE: PREDICTION_COLOR}
_OPACITY = 0.6  # of a heat map where it is high; it fades out towards 0
_FILL = 0.35  # opacity of a filled mask


def _heat_colors() -> ListedColormap:
    """Return a color map that becomes transparent towards 0, to show the anatomy below."""
    colors = mpl.colormaps['inferno'](np.linspace(0.15, 1, 256))
    colors[:, 3] = _OPACITY * np.linspace(0, 1, 256).clip(max=0.4) / 0.4
    return ListedColormap(colors, 'heat')


HEAT_COLORS = _heat_colors()


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One image of a sheet.

    Attributes:
        image: (H, W, 3), uint8, RGB. It is drawn in gray below a heat map, whose colors it would
            change.
        heat: Heat map (H, W) in [0, 1] to draw over the image.
        outline: True mask (H, W), bool, whose outline to draw.
        mask: Predicted mask (H, W), bool, whose outline to draw; it is filled, too, if there is no
            heat map.
        caption: Text below the image.
        subtitle: Second line of the column's title.
        legend: Colors or handles by label for the legend of the sheet, in addition to those of
            outlines.
        draw: Draws marks on the axes above the image.
    """

    image: np.ndarray
    heat: np.ndarray | None = None
    outline: np.ndarray | None = None
    mask: np.ndarray | None = None
    caption: str = ''
    subtitle: str = ''
    legend: Mapping[str, str | Artist] = field(default_factory=dict)
    draw: Callable[[Axes], None] | None = None


#: Cells of one case by column, in order.
SheetRow = Mapping[str, SheetCell]


def draw_runs(
    runs: Mapping[str, Sequence[SheetRow]],
    titles: Sequence[str],
    out: Path,
    bar: str,
    name: str = 'panels',
    selection: str = '',
    formats: Iterable[str] = ('png',),
    width: float | None = None,
) -> list[Path]:
    """Write sheets of one or several runs, with a row for each case.

    - One run: ``<name>.png`` with all columns.
    - Several runs: a sheet for each run, ``<name>_run_1_<title>.png`` and so on; and for each
      column that two or more runs have (a member, the ensemble, ...) a sheet
      ``<name>_<column>.png`` with these runs side by side, as in the paper's Figures 4, 5, 7 and 9.

    Args:
        runs: Rows of each run by its title, all for the same cases.
        titles: Titles of the cases.
        out: Output folder; created if missing.
        bar: Label of the color bar.
        name: Start of the file names.
        selection: Description of the cases for the titles of the sheets.
        formats: Suffixes of the files: png, svg, pdf.
        width: Width of the figures in inches; see :func:`draw_cells`.

    Returns:
        The written files.
    """
    sheets: dict[str, tuple[str, Sequence[SheetRow]]] = {}
    for column in dict.fromkeys(name for rows in runs.values() for name in rows[0]):
        having = {run: rows for run, rows in runs.items() if column in rows[0]}
        if column not in SHARED and len(having) > 1:
            sheets[f'{name}_{column}'] = column, _side_by_side(having, column)
    for number, (run, rows) in enumerate(runs.items(), 1):
        title = f'_run_{number}_{re.sub("[^A-Za-z0-9.+-]+", "_", run)}' if len(runs) > 1 else ''
        sheets[f'{name}{title}'] = run, rows
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for stem, (heading, rows) in sheets.items():
        files = [out / f'{stem}.{suffix}' for suffix in formats]
        heading = f'{heading}: {selection}' if selection else heading
        draw_cells(rows, titles, files, bar, heading, width)
        paths += files
    return paths


def draw_cells(
    rows: Sequence[SheetRow],
    titles: Sequence[str],
    paths: Sequence[Path],
    bar: str = '',
    heading: str = '',
    width: float | None = None,
) -> None:
    """Draw a sheet with a row for each case and a column for each key of the rows.

    All heat maps share one color scale from 0 to 1.

    Args:
        rows: Rows with identical columns.
        titles: Titles of the rows, drawn at the left.
        paths: Files to write: PNG, SVG or PDF, by suffix.
        bar: Label of the color bar.
        heading: Title of the sheet.
        width: Width of the figure in inches. Default: tiles of 1.6 inches.

    Raises:
        ValueError: If there are no rows, the number of titles differs or the columns differ.
    """
    if not rows or len(rows) != len(titles) or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(
            'Invalid rows: expected at least one case, one title for each and identical columns, '
            f'got {len(titles)} titles and columns {[list(row) for row in rows]}'
        )
    cells = [cell for row in rows for cell in row.values()]
    with figure_style():
        figure, grid = tile_sheet(
            [[cell.caption for cell in row.values()] for row in rows],
            [_aspect(row) for row in rows],
            [f'{column}\n{cell.subtitle}' for column, cell in rows[0].items()],
            titles,
            heading=heading,
            legend=_legend(cells),
            bar=ColorBar(HEAT_COLORS, bar)
            if any(cell.heat is not None for cell in cells)
            else None,
            width=width,
        )
        for row, line in zip(rows, grid, strict=True):
            for axes, cell in zip(line, row.values(), strict=True):
                _draw(axes, cell)
    save_figure(figure, *paths, dpi=PRINT_DPI if width else None)


def _side_by_side(runs: Mapping[str, Sequence[SheetRow]], column: str) -> list[SheetRow]:
    """Build rows from the shared columns of the first run and one column of every run."""
    return [
        {
            **{name: cell for name, cell in case[0].items() if name in SHARED},
            **{run: row[column] for run, row in zip(runs, case, strict=True)},
        }
        for case in zip(*runs.values(), strict=True)
    ]


def _aspect(row: SheetRow) -> float:
    height, width = next(iter(row.values())).image.shape[:2]
    return height / width


def _legend(cells: Sequence[SheetCell]) -> list[Artist]:
    drawn = {
        TRUE_OUTLINE: any(cell.outline is not None for cell in cells),
        PREDICTED_OUTLINE: any(cell.mask is not None for cell in cells),
    }
    lines = [
        Line2D([], [], color=OUTLINES[label], label=label)
        for label, is_drawn in drawn.items()
        if is_drawn
    ]
    patches = {name: color for cell in cells for name, color in cell.legend.items()}
    return [
        *lines,
        *(
            color
            if isinstance(color, Artist)
            else Patch(facecolor=color, edgecolor='black', linewidth=0.5, label=name)
            for name, color in patches.items()
        ),
    ]


def _draw(axes: Axes, cell: SheetCell) -> None:
    image = cell.image if cell.heat is None else _to_gray(cell.image)
    axes.imshow(image, interpolation='antialiased')
    if cell.heat is not None:
        axes.imshow(cell.heat, vmin=0, vmax=1, cmap=HEAT_COLORS, interpolation='antialiased')
    elif cell.mask is not None:
        fill = np.zeros((*cell.mask.shape, 4))
        fill[cell.mask] = (*to_rgb(PREDICTION_COLOR), _FILL)
        axes.imshow(fill, interpolation='nearest')
    for mask, color in ((cell.outline, TRUTH_COLOR), (cell.mask, PREDICTION_COLOR)):
        if mask is not None:
            outline(axes, mask, color, width=0.9, edge=True)
    if cell.draw:
        cell.draw(axes)


def _to_gray(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, 3) to gray, with three equal channels."""
    gray = image.mean(axis=2, keepdims=True).astype(np.uint8)
    return np.broadcast_to(gray, image.shape)
