"""Names that several layers share."""

from collections.abc import Sequence

#: Member whose predictions the students are compared with by default.
TEACHER = 'teacher'
#: Prefix of the ensemble's metrics.
ENSEMBLE = 'ensemble'
#: Prefix of the metrics of a plain network, which has no members.
PLAIN = 'model'
#: Prefix of metrics of all students together, such as their diversity.
ALL_STUDENTS = 'students'
#: Splits of a data set, in order: names of the split files and of the data loaders.
SPLITS = ('train', 'val', 'test')
#: Columns of case tables; see :class:`mmkdml.evaluation.CaseTable`.
MULTI_LABEL_COLUMNS = ('member', 'id', 'group', 'label', 'truth', 'pred')
CLASSIFICATION_COLUMNS = ('member', 'id', 'group', 'truth', 'pred')
SEGMENTATION_COLUMNS = ('member', 'id', 'group', 'label', 'tp', 'fp', 'fn')
DETECTION_COLUMNS = (
    'member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes'
)  # fmt: skip
#: Optional column of multi-label classification. Classification has ``score_<class index>``.
SCORE = 'score'
#: Columns of distances between surfaces, in mm; in pixels with :data:`PIXELS` at their end.
DISTANCES = ('HD95', 'ASD', 'NSD')
PIXELS = 'px'
#: Optional columns of segmentation; see :class:`mmkdml.evaluation.ClinicalSegmentation`.
CASE_VALUES = (
    'Dice', 'case_IoU', *DISTANCES, *(f'{name}{PIXELS}' for name in DISTANCES), 'volume_error',
    'volume_difference', 'lesion_sensitivity', 'false_positives',
)  # fmt: skip
#: Column of the true masks or boxes in figures, and pixels of true masks that are not evaluated.
TRUTH, IGNORED = 'truth', 255
#: Lowest score of boxes that figures show, and that counts of boxes include.
SCORE_THRESHOLD = 0.3
#: Number of IoUs in COCO's AP: 0.50, 0.55, ..., 0.95.
BOX_IOUS = 10
#: Number of folds of a cross-validation in the manifest of split files.
FOLDS = 'folds'
#: Metainfo of data sets and predicted samples whose images can have several classes or none.
MULTI_LABEL = 'multi_label'
#: File with the identity in a run's folder.
IDENTITY_FILE = 'identity.json'
#: Key of the epoch and iteration at which a run ended, in its identity.
FINISHED = 'finished'
#: Checkpoint of a run that was stopped.
INTERRUPTED = 'interrupted.pth'


def fold_folder(fold: int) -> str:
    """Return the name of the folder of a fold: of its split files, and of its run in a suite."""
    return f'fold_{fold}'


def named_class(index: int, classes: Sequence[str] | None) -> str:
    """Format a class for messages: ``'vasc (6)'``, or its index if it has no name."""
    return f'{classes[index]} ({index})' if classes and 0 <= index < len(classes) else str(index)


#: Key and folder of tests with test-time augmentation.
TTA = 'tta'
