"""Summary of a run: a page that shows what was trained, how it went and what came out."""

from mmkdml.apis.summary.page import SUMMARY, write_summary

__all__ = ['SUMMARY', 'write_summary']
