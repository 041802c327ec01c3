"""Images with several classes each, from the published table to predictions and exports."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis import load, load_config

CONFIG = Path(__file__).parents[2] / 'configs' / 'kdml' / 'r50_r18x2_v3_nih.py'
FINDINGS = ('Effusion', 'Mass')
MEMBERS = ('teacher', 'student_1', 'student_2', 'ensemble')


def shrink(network):
    network.backbone.update(depth=18, base_channels=4, stem_channels=4, init_cfg=None)
    if 'in_channels' in network.neck:
        network.neck.update(in_channels=32, out_channels=32)
    network.head.update(in_channels=32, num_classes=len(FINDINGS))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Twelve X-rays of six patients in the layout of the NIH."""
    folder = tmp_path_factory.mktemp('nih')
    rng = np.random.default_rng(0)
    lines = ['Image Index,Finding Labels,Follow-up #,Patient ID']
    (folder / 'images').mkdir()
    for place in range(12):
        names = [name for k, name in enumerate(FINDINGS) if place >> k & 1]
        pixels = rng.integers(0, 256, (32, 32)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{place:08}_000.png')
        found = '|'.join(names) or 'No Finding'
        lines.append(f'{place:08}_000.png,{found},0,{place // 2}')
    (folder / 'Data_Entry_2017.csv').write_text('\n'.join(lines))
    return folder


@pytest.fixture
def config(source, tool, tmp_path):
    """Config of KD+ML v3 on two findings, with tiny networks, for images of 32x32."""
    splits = tmp_path / 'splits'
    tool(
        'dataset_converters/multi_label', source, '--table', 'Data_Entry_2017.csv',
        '--out', splits, '--ratios', 34, 33, 33, experiment=False,
    )  # fmt: skip
    config = load_config(CONFIG)
    for network in (config.model.teacher, *config.model.students):
        shrink(network)
    config.model.input_size = (32, 32)
    for part in ('train', 'val', 'test'):
        loader = config[f'{part}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=str(source),
            ann_file=str(splits / f'{part}.csv'),
            metainfo=dict(classes=FINDINGS),
        )
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step['scale'] = (32, 32)
    config.train_cfg.max_epochs = 1
    config.dump(tmp_path / 'tiny_nih.py')
    return tmp_path / 'tiny_nih.py'


@pytest.mark.slow
def test_from_the_table_to_predictions(config, source, tool, tmp_path, capsys):
    run = tmp_path / 'run'
    tool('train', config, '--work-dir', run)
    (best,) = run.glob('best_ensemble_multi-label_AUROC_epoch_1.pth')
    tool('test', run, best, '--out', tmp_path / 'metrics.json')
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    for name in MEMBERS:
        assert 0 <= metrics[f'{name}/multi-label/AUROC'] <= 100
        assert 0 <= metrics[f'{name}/multi-label/mAP'] <= 100
        assert f'{name}/multi-label/f1-score' in metrics
        assert f'{name}/per_class/sensitivity_Mass' in metrics
        assert 0 <= metrics[f'{name}/calibration/ECE'] <= 1
    assert {'student_1/fidelity/KL', 'students/diversity/disagreement'} <= set(metrics)
    confusion = pd.read_csv(run / 'confusion' / 'confusion.csv')
    assert set(confusion['member']) == {f'{m}: {one}' for m in MEMBERS for one in FINDINGS}
    assert confusion['count'].sum() == 4 * len(MEMBERS) * len(FINDINGS)

    images, out = source / 'images', tmp_path / 'out'
    tool('predict', run, images, '--out', out, experiment=False)
    table = pd.read_csv(out / 'predictions.csv', keep_default_na=False)
    assert list(table) == ['case', 'image', 'member', 'label', 'score_Effusion', 'score_Mass']
    assert len(table) == 12 * len(MEMBERS)
    scores = table[['score_Effusion', 'score_Mass']].to_numpy(float)
    named = ['|'.join(np.array(FINDINGS)[row >= 0.5]) for row in scores]
    assert table['label'].tolist() == named
    prediction = load(run, device='cpu').predict(images / '00000000_000.png', augment=True)[0]
    assert isinstance(prediction.answers['ensemble'].label, tuple)
    np.testing.assert_array_equal(
        prediction.answers['teacher'].probabilities, prediction.answers['teacher'].scores
    )


@pytest.fixture
def untrained(config, tmp_path):
    from mmkdml.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(load_config(config).model)
    path = tmp_path / 'run' / 'best_x.pth'
    path.parent.mkdir()
    meta = dict(dataset_meta=dict(classes=FINDINGS))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    config.rename(path.parent / config.name)
    return path.parent


def test_hard_cases_with_grad_cam(untrained, tool, tmp_path, capsys):
    out = tmp_path / 'panels'
    options = ['--num', 2, '--out', out, '--by', 'worst']
    tool('analysis/panels', untrained, *options, experiment=False)
    assert list(out.rglob('*.png'))
    with pytest.raises(SystemExit, match=r"target 'true'.*predicted .*one of Effusion, Mass"):
        tool('analysis/panels', untrained, *options, '--towards', 'true', experiment=False)


@pytest.mark.slow
def test_export_of_the_ensemble(untrained, tool, tmp_path, capsys):
    out = tmp_path / 'exported'
    options = ['--what', 'ensemble', '--format', 'onnx', '--out', out]
    tool('export', untrained, *options, experiment=False)
    card = json.loads(next(out.glob('*.json')).read_text())
    assert card['agreement']['images'] > 0
    assert card['agreement']['other_labels'] == 0
    assert {row['measure'] for row in card['scores']} >= {'precision', 'recall', 'F1', 'AUROC'}
