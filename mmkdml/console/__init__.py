"""Output of the tools: lines, tables and live progress, plain text where there is no terminal."""

from mmkdml.console.live import Live
from mmkdml.console.text import in_words, member_table, short_number, table_text, terminal_width

__all__ = ['Live', 'in_words', 'member_table', 'short_number', 'table_text', 'terminal_width']
