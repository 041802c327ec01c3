import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import PackInputs
from PIL import Image

from mmkdml.datasets import PCamDataset, convert_pcam
from mmkdml.registry import DATASETS


def test_published_layout_yields_samples(tmp_path):
    rng = np.random.default_rng(0)
    tiles = {f'{name:040x}': rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in range(6)}
    (tmp_path / 'train').mkdir()
    for name, tile in tiles.items():
        Image.fromarray(tile).save(tmp_path / 'train' / f'{name}.tif')
    labels = {name: int(name[-1]) % 2 for name in tiles}
    (tmp_path / 'train_labels.csv').write_text(
        'id,label\n' + ''.join(f'{name},{label}\n' for name, label in labels.items())
    )
    convert_pcam(tmp_path, tmp_path / 'splits', subset=0, ratios=(1, 0, 0))
    dataset = DATASETS.build(
        dict(
            type=PCamDataset,
            data_root=str(tmp_path),
            ann_file=str(tmp_path / 'splits' / 'train.csv'),
            pipeline=[
                dict(type=LoadImageFromFile),
                dict(type=PackInputs, meta_keys=('id', 'group')),
            ],
        )
    )
    assert dataset.CLASSES == ('normal', 'metastasis')
    assert len(dataset) == 6
    for sample in dataset:
        name = sample['data_samples'].id
        assert sample['data_samples'].gt_label.item() == labels[name]
        assert sample['data_samples'].group == name
        bgr = sample['inputs'].permute(1, 2, 0).numpy()
        assert np.array_equal(bgr[..., ::-1], tiles[name])
