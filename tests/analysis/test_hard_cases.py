import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from mmkdml.analysis.hard_cases import (
    check_comparable,
    choose_cases,
    class_overlap,
    list_cases,
    measure_cases,
    only_cases,
    overlap,
)
from mmkdml.datasets.splits import read_split

MEMBERS = ('teacher', 'student_1', 'student_2', 'ensemble')


def predictions(model, loader):
    """Yield each predicted sample, and the samples of its members by name."""
    with torch.no_grad():
        for data in loader:
            for sample in model.test_step(data):
                yield (
                    sample,
                    {
                        name: sample if name == 'ensemble' else sample.members.get(name)
                        for name in MEMBERS
                    },
                )


def jaccard(mask, truth):
    ours, theirs = (set(map(tuple, np.argwhere(one))) for one in (mask, truth))
    return 100 * len(ours & theirs) / len(ours | theirs) if ours | theirs else np.nan


def test_measure_cases_segmentation(masks, slices):
    model, loader = masks
    table = measure_cases(model, loader)
    rows = read_split(slices[1])
    assert table['id'].tolist() == [row.id for row in rows]
    assert table['group'].tolist() == [row.group for row in rows]
    for (_, row), (sample, own) in zip(table.iterrows(), predictions(model, loader), strict=True):
        truth = sample.gt_sem_seg.data[0].numpy()
        assert row['region_px'] == truth.sum()
        labels = {name: one.pred_sem_seg.data[0].numpy() for name, one in own.items()}
        for name in MEMBERS:
            expected = jaccard(labels[name], truth)
            assert row[f'{name}_IoU_percent'] == pytest.approx(expected, nan_ok=True)
        differ = (labels['student_1'] != labels['student_2']).mean()
        assert row['disagreement_percent'] == pytest.approx(100 * differ)
    # The values are not trivial.
    assert table['region_px'].nunique() > 5
    assert (table['region_px'] == 0).any()
    assert table['teacher_IoU_percent'].between(1, 99).any()
    assert table['disagreement_percent'].between(1, 99).all()


def test_measure_cases_classification(classes):
    model, loader = classes
    names = loader.dataset.metainfo['classes']
    table = measure_cases(model, loader)
    for (_, row), (sample, own) in zip(table.iterrows(), predictions(model, loader), strict=True):
        truth = int(sample.gt_label)
        assert row['truth'] == names[truth]
        for name in MEMBERS:
            scores = own[name].pred_score.double().numpy()
            assert row[f'{name}_label'] == names[scores.argmax()]
            assert row[f'{name}_probability_percent'] == pytest.approx(
                100 * scores[truth] / scores.sum()
            )
        one, two = (own[f'student_{k}'].pred_score.double().numpy() for k in (1, 2))
        assert row['disagreement_percent'] == pytest.approx(100 * max(one - two))  # two classes
    assert table['truth'].nunique() == 2
    assert table['disagreement_percent'].max() > 1


def test_ignored_pixels_are_not_counted(masks):
    model, loader = masks

    def ignoring(packed):
        packed['data_samples'].gt_sem_seg.data[:, :32] = 255
        return packed

    dataset = copy.deepcopy(loader.dataset)
    dataset.pipeline.transforms.append(ignoring)
    table = measure_cases(model, DataLoader(dataset, 5, collate_fn=loader.collate_fn))
    for (_, row), (sample, own) in zip(table.iterrows(), predictions(model, loader), strict=True):
        truth = sample.gt_sem_seg.data[0, 32:].numpy()
        labels = {name: one.pred_sem_seg.data[0, 32:].numpy() for name, one in own.items()}
        assert row['region_px'] == truth.sum()
        expected = jaccard(labels['teacher'], truth)
        assert row['teacher_IoU_percent'] == pytest.approx(expected, nan_ok=True)
        differ = (labels['student_1'] != labels['student_2']).mean()
        assert row['disagreement_percent'] == pytest.approx(100 * differ)
    assert (table['region_px'] > 0).any()


def test_single_network_has_no_disagreement(masks):
    model, loader = masks
    network = copy.deepcopy(model.members['student_1'])
    network.data_preprocessor = model.data_preprocessor
    table = measure_cases(network, loader)
    assert table.columns.tolist() == [
        'id',
        'group',
        'region_px',
        'model_IoU_percent',
        'disagreement_percent',
    ]
    assert table['disagreement_percent'].isna().all()
    full = measure_cases(model, loader)
    pd.testing.assert_series_equal(
        table['model_IoU_percent'], full['student_1_IoU_percent'], check_names=False
    )
    worst = full.rename(
        columns=dict(student_1_IoU_percent='ensemble_IoU_percent', ensemble_IoU_percent='other')
    )
    assert choose_cases(dict(a=table)) == choose_cases(dict(a=worst))
    with pytest.raises(ValueError, match='by=disagreement: .* at least two students'):
        choose_cases(dict(a=table), 'disagreement')


def test_measure_cases_does_not_change_the_model(masks):
    model, loader = masks
    before = copy.deepcopy(model.state_dict())
    model.train()
    measure_cases(model, loader)
    assert all(part.training for part in model.modules())
    model.eval()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def random_table(seed, of_pixels=True, final='ensemble'):
    """Table of 30 cases in random order, with many ties."""
    rng = np.random.default_rng(seed)
    quality = rng.choice([0, 0, 10, 20, np.nan], 30)
    table = pd.DataFrame(
        {
            'id': [f'case_{index:02d}' for index in range(30)],
            'group': 'g',
            'region_px': np.random.default_rng(9).choice(
                [0, 5, 5, 8], 30
            ),  # independent of the seed
            f'{final}_IoU_percent': quality,
            'student_1_IoU_percent': rng.random(30),
            'disagreement_percent': rng.choice([0, 1, 2.5], 30),
        }
    )
    if not of_pixels:
        table = table.rename(columns={f'{final}_IoU_percent': f'{final}_probability_percent'})
        table = table.drop(columns='region_px').fillna(0.5)
    return table.sample(frac=1, random_state=seed)


def sort_cases(tables, by):
    """Sort all cases of all runs in plain Python."""
    cases = []
    for one in tables[0].to_dict('records'):
        rows = [next(r for r in t.to_dict('records') if r['id'] == one['id']) for t in tables]
        final = [
            r.get(f'{name}_{key}')
            for r in rows
            for name, key in itertools.product(
                ('ensemble', 'model'), ('IoU_percent', 'probability_percent')
            )
        ]
        final = [value for value in final if value is not None]
        quality = sum(100 if np.isnan(value) else value for value in final) / len(tables)
        differing = [
            r['disagreement_percent'] for r in rows if not np.isnan(r['disagreement_percent'])
        ]
        region = one.get('region_px', 0)
        if by == 'smallest' and region == 0:
            continue
        key = {
            'smallest': (region, quality),
            'worst': (quality, -region),
            'disagreement': (-sum(differing) / len(differing), quality),
        }[by]
        cases.append((*key, one['id']))
    return [case[-1] for case in sorted(cases)]


@pytest.mark.parametrize('by', ['smallest', 'worst', 'disagreement'])
@pytest.mark.parametrize('num', [1, 7, 99])
def test_choose_cases_matches_plain_sorting(by, num):
    single = random_table(1, final='model')
    single['disagreement_percent'] = np.nan
    for tables in (
        [random_table(0)],
        [random_table(0), single],
        [random_table(0), random_table(2)],
    ):
        before = copy.deepcopy(tables)
        chosen = choose_cases(dict(zip('ab', tables, strict=False)), by, num)
        assert chosen == sort_cases(tables, by)[:num]
        assert len(set(chosen)) == len(chosen)
        for table, old in zip(tables, before, strict=True):
            pd.testing.assert_frame_equal(table, old)


def test_each_group_contributes_its_hardest_case():
    table = random_table(5)
    table['group'] = [f'p{index % 5}' for index in range(30)]
    group = dict(zip(table['id'], table['group'], strict=True))
    hardest = sort_cases([table], 'worst')
    first = [one for index, one in enumerate(hardest)
             if group[one] not in [group[other] for other in hardest[:index]]]  # fmt: skip
    assert choose_cases(dict(a=table), num=3) == first[:3] != hardest[:3]
    assert choose_cases(dict(a=table), num=3, repeat_groups=True) == hardest[:3]
    # More cases than groups: second cases of the groups follow, ordered by hardness.
    seven = choose_cases(dict(a=table), num=7)
    assert set(first) < set(seven)
    assert seven == sorted(seven, key=hardest.index)
    assert max(pd.Series(group)[seven].value_counts()) == 2


def test_image_without_group_is_its_own_group():
    class Plain(list):
        get_data_info = list.__getitem__

    infos = Plain([dict(id='a'), dict(id='b', group=''), dict(id=3, group=7)])
    assert list_cases(infos).to_numpy().tolist() == [['a', 'a'], ['b', 'b'], ['3', '7']]


@pytest.mark.parametrize('by', ['worst', 'disagreement'])
def test_choose_cases_classification(by):
    tables = [random_table(3, of_pixels=False), random_table(4, of_pixels=False)]
    assert choose_cases(dict(a=tables[0], b=tables[1]), by, 9) == sort_cases(tables, by)[:9]


def test_invalid_choice_raises():
    table = random_table(0)
    with pytest.raises(ValueError, match='by=smallest: expected images with regions'):
        choose_cases(dict(a=random_table(0, of_pixels=False)), 'smallest')
    with pytest.raises(ValueError, match='by=smallest: expected images with regions'):
        choose_cases(dict(a=table.assign(region_px=0)), 'smallest')
    with pytest.raises(ValueError, match='expected at least one image, got none'):
        choose_cases(dict(a=table[:0]))
    with pytest.raises(ValueError, match="of smallest, worst, disagreement .* got 'best' and 6"):
        choose_cases(dict(a=table), 'best')
    with pytest.raises(ValueError, match="a number >= 1, got 'worst' and 0"):
        choose_cases(dict(a=table), num=0)


def test_overlap():
    truth, mask = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert np.isnan(overlap(mask, truth)).all()
    truth[0] = True
    assert overlap(mask, truth) == overlap(truth, mask) == (0, 0)
    mask[:, :2] = True
    assert overlap(mask, truth) == pytest.approx((100 * 2 / 6, 100 * 4 / 8))
    assert overlap(truth, truth) == (100, 100)


def test_class_overlap_is_the_mean_of_the_classes_that_occur():
    truth = np.array([0, 1, 1, 2, 2, 2, 3, 255])
    labels = np.array([1, 1, 0, 2, 2, 3, 2, 3])
    one, two, three = ((truth == k, (labels == k) & (truth != 255)) for k in (1, 2, 3))
    expected = np.mean([overlap(*one), overlap(*two), overlap(*three)], axis=0)
    assert class_overlap(labels, truth) == pytest.approx(expected)
    assert class_overlap(truth, truth) == (100, 100)
    assert np.isnan(class_overlap(np.zeros(3), np.array([0, 0, 255]))).all()


def test_only_cases_keeps_the_order_of_ids(masks):
    model, loader = masks
    ids = list_cases(loader.dataset)['id']
    wanted = [ids[9], ids[2], ids[11]]
    few = only_cases(loader, wanted)
    assert [sample.id for sample, _ in predictions(model, few)] == wanted
    every = measure_cases(model, loader).set_index('id')
    pd.testing.assert_frame_equal(measure_cases(model, few).set_index('id'), every.loc[wanted])
    first = ', '.join(sorted(ids)[:3])
    with pytest.raises(ValueError, match=f'ids: .* the 16 .* {first}, ..., got x, y$'):
        only_cases(loader, [ids[0], 'y', 'x'])


def test_incomparable_runs_raise(masks, classes):
    assert check_comparable(dict(a=masks, b=masks)) == 'segmentation'
    assert check_comparable(dict(a=classes)) == 'classification'
    network = masks[0].members['student_1']
    assert check_comparable(dict(a=masks, b=(network, masks[1]))) == 'segmentation'
    with pytest.raises(ValueError, match='one task, got a: segmentation, b: classification'):
        check_comparable(dict(a=masks, b=classes))
    model, loader = masks
    ids = list_cases(loader.dataset)['id'].tolist()
    with pytest.raises(
        ValueError, match=f'same images, got 16 for a and 14 for b; {ids[0]}, {ids[1]} differ'
    ):
        check_comparable(dict(a=masks, b=(model, only_cases(loader, ids[2:]))))


def test_invalid_data_set_raises(masks):
    class Nameless:
        def __len__(self):
            return 1

        def get_data_info(self, index):
            return dict(img_path='a.png')

    with pytest.raises(ValueError, match=r"Nameless: expected the id .* got \['img_path'\]"):
        list_cases(Nameless())
    model, loader = masks
    dataset = copy.deepcopy(loader.dataset)
    del dataset.pipeline.transforms[2]  # which loads the mask
    with pytest.raises(ValueError, match='expected the truth, gt_label or gt_sem_seg, in each'):
        measure_cases(model, DataLoader(dataset, 2, collate_fn=loader.collate_fn))
    dataset = copy.deepcopy(loader.dataset)
    first, second, third, *rest = dataset.pipeline.transforms
    dataset.pipeline.transforms = [first, third, second, *rest]  # the mask resized as well
    with pytest.raises(ValueError, match='prediction of teacher: expected 1024 .* got 4096'):
        measure_cases(model, DataLoader(dataset, 2, collate_fn=loader.collate_fn))
