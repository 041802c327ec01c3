"""Distillers, which train the members of a classroom."""

from mmkdml.models.distillers.diversified_kdml import DiversifiedKDMLDistiller
from mmkdml.models.distillers.fold_teachers import write_fold_teachers
from mmkdml.models.distillers.knowledge_distiller import KnowledgeDistiller
from mmkdml.models.distillers.teacher_cache import TeacherCache

__all__ = ['DiversifiedKDMLDistiller', 'KnowledgeDistiller', 'TeacherCache', 'write_fold_teachers']
