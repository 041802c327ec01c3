"""Summary of a run: a page with its members, curves and results."""

from typing import TYPE_CHECKING

from mmkdml.lazy import lazy_exports

if TYPE_CHECKING:
    from mmkdml.apis.summary.page import SUMMARY, write_summary

__getattr__, __dir__, _ = lazy_exports(__name__, {'.page': ['SUMMARY', 'write_summary']})

__all__ = ['SUMMARY', 'write_summary']
