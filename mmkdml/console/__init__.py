"""Output of the tools: lines, tables and live progress, plain text where there is no terminal."""

from mmkdml.console.console import ON_CONSOLE, PLAIN_WIDTH, Console, get_console, wrap
from mmkdml.console.numbers import in_words, short_number
from mmkdml.console.progress import OverallProgress

__all__ = [
    'ON_CONSOLE',
    'PLAIN_WIDTH',
    'Console',
    'OverallProgress',
    'get_console',
    'in_words',
    'short_number',
    'wrap',
]
