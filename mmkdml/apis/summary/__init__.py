"""Summary of a run: a page with its members, curves and results."""

from mmkdml.apis.summary.page import SUMMARY, write_summary

__all__ = ['SUMMARY', 'write_summary']
