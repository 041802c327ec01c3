"""Figures with the predictions of each member for selected cases of one or several runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mmkdml.analysis.hard_cases import overlap, predict_batch
from mmkdml.datasets.images import read_image
from mmkdml.evaluation.mask_panels import IGNORED, TRUTH, TRUTH_COLOR
from mmkdml.evaluation.predictions import predictions_by_name, truth_of
from mmkdml.names import ENSEMBLE

IMAGE, DIFFERENCE = 'image', 'difference'
#: Columns that are identical in all runs.
SHARED = (IMAGE, TRUTH)
FOREGROUND_BAR = 'probability of the foreground'
HEAT_COLORS = 'magma'
# Okabe and Ito's color-blind safe orange and sky blue.
HIT, FALSE_ALARM, MISS = 'true positive', 'false positive', 'false negative'
DIFFERENCE_COLORS = {HIT: '#ffffff', FALSE_ALARM: '#E69F00', MISS: '#56B4E9'}


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One image of a sheet.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        heat: Heat map (H, W) in [0, 1] to draw over the image.
        opacity: Opacity of the heat map, in (0, 1].
        outline: Mask (H, W), bool, whose outline to draw.
        caption: Text below the image.
        legend: Colors by label for the legend of the sheet.
    """

    image: np.ndarray
    heat: np.ndarray | None = None
    opacity: float = 1.0
    outline: np.ndarray | None = None
    caption: str = ''
    legend: Mapping[str, str] = field(default_factory=dict)


#: Cells of one case by column, in order.
SheetRow = Mapping[str, SheetCell]


def mask_rows(model: BaseModel, loader: DataLoader) -> list[SheetRow]:
    """Build the sheet rows of a segmentation run, one for each case.

    Columns: the image, with the size of its true region; the true mask; for each member, teachers
    first, the foreground probability with IoU, Dice and the outline of the true mask; the mask of
    the ensemble; the difference of that mask (or of the single model's) from the truth. All
    foreground classes count as one; ignored pixels are excluded from comparisons.

    Args:
        model: Model with its weights, on its device.
        loader: Loader of only these cases, with their true masks.

    Raises:
        ValueError: If a sample has no true mask or no ``img_path``.
        FileNotFoundError: If an image no longer exists.
    """
    return [_mask_row(sample) for data in loader for sample in predict_batch(model, data)[1]]


def draw_runs(
    runs: Mapping[str, Sequence[SheetRow]], titles: Sequence[str], out: Path, bar: str
) -> list[Path]:
    """Write sheets of one or several runs, with a row for each case.

    - One run: ``panels.png`` with all columns.
    - Several runs: a sheet for each run, ``run_1_<title>.png`` and so on; and for each column that
      two or more runs have (a member, the ensemble, ...) a sheet ``<column>.png`` with these runs
      side by side, as in the paper's Figures 4, 5, 7 and 9.

    Args:
        runs: Rows of each run by its title, all for the same cases.
        titles: Titles of the cases.
        out: Output folder; created if missing.
        bar: Label of the color bar.

    Returns:
        The written files.
    """
    sheets: dict[str, tuple[str, Sequence[SheetRow]]] = {}
    for column in dict.fromkeys(name for rows in runs.values() for name in rows[0]):
        having = {run: rows for run, rows in runs.items() if column in rows[0]}
        if column not in SHARED and len(having) > 1:
            sheets[column] = column, _side_by_side(having, column)
    for number, (run, rows) in enumerate(runs.items(), 1):
        name = f'run_{number}_{re.sub("[^A-Za-z0-9.+-]+", "_", run)}' if len(runs) > 1 else 'panels'
        sheets[name] = run, rows
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f'{name}.png' for name in sheets]
    for path, (heading, rows) in zip(paths, sheets.values(), strict=True):
        draw_cells(rows, titles, path, bar, heading)
    return paths


def draw_cells(
    rows: Sequence[SheetRow], titles: Sequence[str], path: Path, bar: str = '', heading: str = ''
) -> None:
    """Draw a sheet with a row for each case and a column for each key of the rows.

    All heat maps share one color scale from 0 to 1.

    Args:
        rows: Rows with identical columns.
        titles: Titles of the rows, drawn at the left.
        path: File to write.
        bar: Label of the color bar.
        heading: Title of the sheet.

    Raises:
        ValueError: If there are no rows, the number of titles differs or the columns differ.
    """
    if not rows or len(rows) != len(titles) or any(list(row) != list(rows[0]) for row in rows):
        raise ValueError(
            'Invalid rows: expected at least one case, one title for each and identical columns, '
            f'got {len(titles)} titles and columns {[list(row) for row in rows]}'
        )
    columns, cells = list(rows[0]), [cell for row in rows for cell in row.values()]
    height, width = cells[0].image.shape[:2]
    lines = max(cell.caption.count('\n') for cell in cells) + 1
    with_bar = any(cell.heat is not None for cell in cells)
    legend = {name: color for cell in cells for name, color in cell.legend.items()}
    figure = Figure(
        figsize=(
            1.65 * len(columns) + 0.3 + 0.8 * with_bar,
            (1.62 * height / width + 0.14 * lines) * len(rows) + 0.6 + 0.3 * bool(legend),
        ),
        dpi=120,
        layout='constrained',
    )
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, title, line in zip(rows, titles, grid, strict=True):
        for axes, cell in zip(line, row.values(), strict=True):
            _draw(axes, cell)
        line[0].set_ylabel(title, fontsize=7, parse_math=False)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=10, parse_math=False)
    figure.suptitle(heading, fontsize=12, parse_math=False)
    if with_bar:
        heat = ScalarMappable(cmap=HEAT_COLORS)
        color_bar = figure.colorbar(heat, ax=grid, shrink=max(0.25, 0.8 / len(rows)), pad=0.01)
        color_bar.set_label(bar, fontsize=8)
    if legend:
        patches = [
            Patch(facecolor=color, edgecolor='black', linewidth=0.5, label=name)
            for name, color in legend.items()
        ]
        figure.legend(
            handles=patches,
            loc='outside lower center',
            ncols=len(patches),
            frameon=False,
            fontsize=9,
        )
    figure.savefig(path)


def _side_by_side(runs: Mapping[str, Sequence[SheetRow]], column: str) -> list[SheetRow]:
    """Build rows from the shared columns of the first run and one column of every run."""
    return [
        {
            **{name: cell for name, cell in case[0].items() if name in SHARED},
            **{run: row[column] for run, row in zip(runs, case, strict=True)},
        }
        for case in zip(*runs.values(), strict=True)
    ]


def _draw(axes: Axes, cell: SheetCell) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.imshow(cell.image)
    if cell.heat is not None:
        axes.imshow(cell.heat, vmin=0, vmax=1, cmap=HEAT_COLORS, alpha=cell.opacity)
    if cell.outline is not None and cell.outline.any():  # an empty one makes matplotlib warn
        axes.contour(cell.outline, levels=[0.5], colors=TRUTH_COLOR, linewidths=0.8)
    axes.set_xlabel(cell.caption, fontsize=7)


def _mask_row(sample: Any) -> SheetRow:
    if 'img_path' not in sample:
        raise ValueError(
            f'Invalid sample: expected img_path in its metainfo, got {sorted(sample.all_keys())}. '
            "Add img_path to meta_keys of the pipeline's Pack transform"
        )
    truth = truth_of(sample).cpu().numpy()
    shape = sample.gt_sem_seg.shape
    counted = truth != IGNORED
    region = (truth > 0) & counted
    image = mmcv.imresize(read_image(sample.img_path), (shape[1], shape[0]))
    row = {
        IMAGE: SheetCell(image, caption=f'region: {region.sum():,} pixels'),
        TRUTH: SheetCell(_black_and_white(region.reshape(shape))),
    }
    for name, prediction in predictions_by_name(sample).items():
        mask = (prediction.labels > 0).cpu().numpy()
        iou, dice = overlap(mask & counted, region)
        caption = 'both empty' if np.isnan(iou) else f'IoU {iou:.1f}   Dice {dice:.1f}'
        heat = 1 - prediction.probabilities[:, 0].cpu().numpy().reshape(shape)
        row[name] = SheetCell(
            image,
            heat,
            outline=region.reshape(shape),
            caption=caption,
            legend={'true outline': TRUTH_COLOR},
        )
    # The last prediction is that of the ensemble or of a single model.
    if name == ENSEMBLE:
        row[name] = SheetCell(_black_and_white(mask.reshape(shape)), caption=caption)
    parts = {HIT: mask & region, FALSE_ALARM: mask & ~region & counted, MISS: region & ~mask}
    difference = _color_parts(image, parts)
    row[DIFFERENCE] = SheetCell(difference, caption=caption, legend=DIFFERENCE_COLORS)
    return row


def _black_and_white(mask: np.ndarray) -> np.ndarray:
    return np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)


def _color_parts(image: np.ndarray, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Convert an image to dark gray and color each part, a mask of H * W pixels."""
    colored = np.repeat(image.mean(axis=2, keepdims=True) * 0.45, 3, axis=2)
    for kind, part in parts.items():
        colored[part.reshape(image.shape[:2])] = 255 * np.array(to_rgb(DIFFERENCE_COLORS[kind]))
    return colored.astype(np.uint8)
