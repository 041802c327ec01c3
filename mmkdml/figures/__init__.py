"""Figures in one style: sizes, colors, image tiles and files. Data are passed in as arrays."""

from mmkdml.figures.marks import add_scale_bar, outline, outline_boxes
from mmkdml.figures.sheets import ColorBar, tile_sheet
from mmkdml.figures.style import (
    COLUMN_WIDTHS,
    ONE_COLUMN,
    PALETTE,
    SCREEN,
    TWO_COLUMNS,
    class_color,
    figure_style,
    legend_below,
    member_color,
    save_figure,
    svg_text,
)
from mmkdml.figures.text import wrap

__all__ = [
    'COLUMN_WIDTHS',
    'ONE_COLUMN',
    'PALETTE',
    'SCREEN',
    'TWO_COLUMNS',
    'ColorBar',
    'add_scale_bar',
    'class_color',
    'figure_style',
    'legend_below',
    'member_color',
    'outline',
    'outline_boxes',
    'save_figure',
    'svg_text',
    'tile_sheet',
    'wrap',
]
