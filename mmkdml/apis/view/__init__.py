"""A local web page with the predictions of every member of a run."""

from mmkdml.apis.view.server import view

__all__ = ['view']
