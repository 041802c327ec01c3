"""Figures in one style: sizes, colors, image tiles and files. Data are passed in as arrays."""

from mmkdml.figures.sheets import ColorBar, tile_sheet
from mmkdml.figures.style import (
    ONE_COLUMN,
    PALETTE,
    SCREEN,
    TWO_COLUMNS,
    class_color,
    figure_style,
    legend_below,
    member_color,
    save_figure,
    shorten,
    svg_text,
)
from mmkdml.figures.tiles import add_color_bar, add_scale_bar, new_tiles, outline, show_tile, wrap

__all__ = [
    'ColorBar',
    'ONE_COLUMN',
    'PALETTE',
    'SCREEN',
    'TWO_COLUMNS',
    'add_color_bar',
    'add_scale_bar',
    'class_color',
    'figure_style',
    'legend_below',
    'member_color',
    'new_tiles',
    'outline',
    'save_figure',
    'shorten',
    'show_tile',
    'svg_text',
    'tile_sheet',
    'wrap',
]
