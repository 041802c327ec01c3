"""The distillers."""

from mmkdml.models.distillers.diversified_kdml import DiversifiedKDMLDistiller
from mmkdml.models.distillers.knowledge_distiller import KnowledgeDistiller

__all__ = ['DiversifiedKDMLDistiller', 'KnowledgeDistiller']
