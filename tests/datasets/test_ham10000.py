import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import PackInputs
from mmseg.datasets import PackSegInputs
from PIL import Image

from mmkdml.datasets import HAM10000Dataset, HAM10000SegDataset, LoadBinaryMask, convert_ham10000
from mmkdml.registry import DATASETS

META = ('id', 'group')
# Codes and beginnings of the class names, in the order of the labels.
NAMES = dict(
    akiec='actinic keratosis',
    bcc='basal cell carcinoma',
    bkl='benign keratosis',
    df='dermatofibroma',
    mel='melanoma',
    nv='melanocytic naevus',
    vasc='vascular lesion',
)


@pytest.fixture
def published(tmp_path):
    """Two images and masks per diagnosis, of the same lesion."""
    rng = np.random.default_rng(0)
    lines = ['lesion_id,image_id,dx']
    for label, dx in enumerate(NAMES):
        for view in (0, 1):
            name = f'ISIC_{dx}_{view}'
            mask = np.zeros((6, 8), np.uint8)
            mask[label % 6, : view + 1] = 255
            pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f'{name}.jpg')
            Image.fromarray(mask).save(tmp_path / f'{name}_segmentation.png')
            lines.append(f'HAM_{dx},{name},{dx}')
    (tmp_path / 'HAM10000_metadata.csv').write_text('\n'.join(lines) + '\n')
    return tmp_path


def build(cls, folder, pipeline):
    ann_file = str(folder / 'splits' / 'train.csv')
    pipeline = [dict(type=LoadImageFromFile), *pipeline]
    return DATASETS.build(
        dict(type=cls, data_root=str(folder), ann_file=ann_file, pipeline=pipeline)
    )


def test_classes_match_the_codes(published):
    arguments = dict(balance=3, ratios=(1, 0, 0))
    convert_ham10000(published, published / 'splits', 'cls', **arguments)
    dataset = build('HAM10000Dataset', published, [dict(type=PackInputs, meta_keys=META)])
    assert isinstance(dataset, HAM10000Dataset)
    assert len(dataset) == 3 * 7  # one of two images is repeated
    assert len(dataset.CLASSES) == 7
    for sample in (packed['data_samples'] for packed in dataset):
        dx = sample.group.removeprefix('HAM_')
        assert sample.id.startswith(f'ISIC_{dx}_')
        assert dataset.CLASSES[sample.gt_label.item()].startswith(NAMES[dx])


def test_masks_match_the_samples(published):
    convert_ham10000(published, published / 'splits', 'seg', ratios=(1, 0, 0))
    pipeline = [dict(type=LoadBinaryMask), dict(type=PackSegInputs, meta_keys=META)]
    dataset = build('HAM10000SegDataset', published, pipeline)
    assert isinstance(dataset, HAM10000SegDataset)
    assert dataset.metainfo['classes'] == ('background', 'lesion')
    assert len(dataset) == 14
    for sample in (packed['data_samples'] for packed in dataset):
        _, dx, view = sample.id.split('_')
        truth = sample.gt_sem_seg.data[0].numpy()
        assert truth.sum() == int(view) + 1
        assert truth[list(NAMES).index(dx) % 6, 0] == 1
        assert sample.group == f'HAM_{dx}'
