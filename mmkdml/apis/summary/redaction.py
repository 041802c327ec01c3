"""Removal of secrets from text that a summary shows."""

from __future__ import annotations

import re

_NAME = r'[\w.-]*(?:api_?key|token|secret|passw(?:or)?d|credentials?)(?![a-z])[\w-]*'
_VALUE = r"""'[^']*'|"[^"]*"|[^\s'",)]+"""
_PATTERNS = (
    re.compile(rf"""(\b{_NAME}['"]?\s*[=:]\s*|--{_NAME}\s+)({_VALUE})""", re.IGNORECASE),
    re.compile(r'(://[^/\s:@]*:)([^@\s/]+)(?=@)'),
)


def hide_secrets(text: str) -> str:
    """Replace values of settings such as ``api_key``, and passwords in URLs, by ``***``."""
    for pattern in _PATTERNS:
        text = pattern.sub(r'\1***', text)
    return text
