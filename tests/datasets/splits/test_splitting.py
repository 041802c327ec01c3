import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from mmkdml.datasets.splits import SplitRow
from mmkdml.datasets.splits.splitting import (
    assign_groups,
    balance_rows,
    fold_rows,
    refuse_shared_groups,
    split_rows,
)

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(5)]


def row(name, group='g', label=0):
    return SplitRow(name, f'{name}.tif', group, label)


def test_groups_stay_together_and_no_image_is_lost():
    rng = random.Random(0)
    for _ in range(300):
        rows = [
            row(f'{g}_{i}', str(g))
            for g in range(rng.randint(3, 40))
            for i in range(rng.randint(1, 30))
        ]
        ratios = [rng.choice([rng.random(), 1, 10]) for _ in range(3)]
        splits = split_rows(rows, ratios, seed=rng.randint(0, 99))
        groups = [{r.group for r in part} for part in splits.values()]
        assert set(splits) == {'train', 'val', 'test'}
        assert all(groups)
        assert len(set.union(*groups)) == sum(map(len, groups))
        assert sorted(r.id for part in splits.values() for r in part) == sorted(r.id for r in rows)


def test_shares_are_met_to_within_one_group():
    rng = random.Random(1)
    sizes = {f'p{i:03}': rng.randint(20, 88) for i in range(110)}
    for seed in range(20):
        assigned = assign_groups(sizes, (75, 10, 15), seed)
        for split, share in zip(('train', 'val', 'test'), (0.75, 0.1, 0.15), strict=True):
            count = sum(sizes[g] for g, s in assigned.items() if s == split)
            assert abs(count - share * sum(sizes.values())) <= max(sizes.values())


def test_single_image_groups_meet_the_shares_exactly():
    rows = [row(f'{i:03}', f'{i}') for i in range(200)]
    assert [len(part) for part in split_rows(rows, (75, 10, 15)).values()] == [150, 20, 30]


def test_by_image_divides_groups():
    splits = split_rows(ROWS, by_image=True)
    assert [len(part) for part in splits.values()] == [30, 4, 6]
    with pytest.raises(ValueError, match="group '.' is in train and in "):
        refuse_shared_groups(splits)


def test_split_depends_on_the_seed_only():
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    assert split_rows(ROWS, seed=5) == split_rows(shuffled, seed=5)
    assert split_rows(ROWS, (0.75, 0.1, 0.15), 5) == split_rows(ROWS, (75, 10, 15), 5)
    assert len({str(split_rows(ROWS, seed=seed)) for seed in range(10)}) > 5


def test_split_of_a_seed_never_changes():
    """Published results name a seed, so that it must give the same split in all versions."""
    assigned = assign_groups(dict.fromkeys('abcdefgh', 10), (2, 1, 1), seed=0)
    assert assigned == dict(
        a='test', b='train', c='val', d='train', e='test', f='train', g='val', h='train'
    )


def test_few_groups_fill_every_split():
    assert sorted(assign_groups(dict(a=1, b=1, c=98), (98, 1, 1), 0).values()) == [
        'test',
        'train',
        'val',
    ]


def test_zero_share_omits_the_split():
    assert set(split_rows(ROWS, (80, 0, 20))) == {'train', 'test'}


@pytest.mark.parametrize(
    'ratios', [(1, 1), (1, 1, -1), (0, 0, 0), (1, float('nan'), 1), (1, float('inf'), 1)]
)
def test_invalid_ratios_raise(ratios):
    with pytest.raises(ValueError, match='three finite ratios of at least 0.*got'):
        split_rows(ROWS, ratios)


def test_fewer_groups_than_splits_raise():
    with pytest.raises(ValueError, match=r"at least 3 groups.* train, val, test, got 2: \['a'"):
        split_rows([r for r in ROWS if r.group in 'ab'])


def test_duplicate_id_raises():
    twice = [row('x', 'a'), row('y', 'b'), SplitRow('x', 'elsewhere.tif', 'c', 0)]
    with pytest.raises(ValueError, match="duplicate id 'x': x.tif and elsewhere.tif"):
        split_rows(twice)


def lesions(sizes, groups_of=2):
    """Return rows of several classes, with two images per lesion."""
    return [
        row(f'{label}_{i:04}', f'{label}_{i // groups_of}', label)
        for label, size in enumerate(sizes)
        for i in range(size)
    ]


@pytest.mark.parametrize('by_image', [False, True])
def test_by_class_preserves_class_proportions(by_image):
    sizes = (40, 400, 1000)
    for seed in range(5):
        splits = split_rows(lesions(sizes), (75, 10, 15), seed, by_image=by_image, by_class=True)
        for name, share in dict(train=0.75, val=0.1, test=0.15).items():
            counts = Counter(r.label for r in splits[name])
            assert [counts[label] for label in range(3)] == [share * size for size in sizes]


def test_by_class_keeps_groups_and_is_reproducible():
    rng = random.Random(2)
    rows = [row(f'{g}_{i}', str(g), g % 3) for g in range(60) for i in range(rng.randint(1, 9))]
    splits = split_rows(rows, seed=1, by_class=True)
    refuse_shared_groups(splits)
    assert sorted(r.id for part in splits.values() for r in part) == sorted(r.id for r in rows)
    assert splits == split_rows(rng.sample(rows, len(rows)), seed=1, by_class=True)
    assert splits != split_rows(rows, seed=2, by_class=True)
    assert splits != split_rows(rows, seed=1)


def test_by_class_with_mixed_or_few_groups_raises():
    mixed = [*lesions((9, 9)), row('z', '0_0', label=1)]
    with pytest.raises(ValueError, match="group '0_0' has images of the classes 0 and 1: .*one"):
        split_rows(mixed, by_class=True)
    assert split_rows(mixed, by_image=True, by_class=True)
    with pytest.raises(ValueError, match='class 1: expected at least 3 groups.* got 2'):
        split_rows(lesions((9, 4)), by_class=True)
    with pytest.raises(ValueError, match=r'classes nv \(0\) and vasc \(1\)'):
        split_rows(mixed, by_class=True, classes=('nv', 'vasc'))


@pytest.mark.parametrize('target', [1, 7, 10, 25, 100])
def test_balanced_classes_have_target_size_and_even_repeats(target):
    sizes = (3, 10, 40)
    rows = lesions(sizes)
    before = list(rows)
    balanced = balance_rows(rows, target, seed=4)
    assert rows == before
    assert balanced == sorted(balanced, key=lambda r: r.id)
    for label, size in enumerate(sizes):
        repeats = [r.repeats for r in balanced if r.label == label]
        assert sum(repeats) == target
        assert len(repeats) == min(size, target)
        assert max(repeats) - min(repeats) <= 1
    originals = {r.id: r for r in rows}
    assert all((r.path, r.group) == (originals[r.id].path, originals[r.id].group) for r in balanced)


def test_balancing_is_reproducible_and_uniform():
    rows = lesions((4, 20))
    shuffled = random.Random(0).sample(rows, len(rows))
    assert balance_rows(rows, 6, 3) == balance_rows(shuffled, 6, 3)
    chosen = Counter(r.id for seed in range(400) for r in balance_rows(rows, 5, seed) if r.label)
    # Each of 20 with probability 1/4: 100 of 400, standard deviation 8.7.
    assert len(chosen) == 20
    assert all(abs(count - 100) < 45 for count in chosen.values())


def test_balancing_to_zero_raises():
    with pytest.raises(ValueError, match='at least 1 sample of each class, got 0'):
        balance_rows(lesions((3, 3)), 0)


def folds_of(number=40, folds=5, seed=0, classes=3):
    """Rows of patients with several images and classes, and their folds."""
    rng = random.Random(seed)
    rows = [
        row(f'{g}_{i}', f'p{g}', rng.choice([g % classes, 0]))
        for g in range(number)
        for i in range(rng.randint(1, 12))
    ]
    return rows, fold_rows(rows, folds, (75, 10, 15), seed)


def test_each_image_is_tested_in_one_fold_and_trains_in_the_others():
    for seed in range(10):
        rows, folds = folds_of(seed=seed)
        tested = Counter(r.id for splits in folds for r in splits['test'])
        assert tested == Counter(r.id for r in rows)
        for splits in folds:
            refuse_shared_groups(splits)
            assert sorted(r.id for part in splits.values() for r in part) == sorted(tested)
            train, val = (len(splits[name]) for name in ('train', 'val'))
            assert val / (train + val) == pytest.approx(10 / 85, abs=0.06)


def spread(tests):
    """Largest deviation of a test split's share of a class, or of all images, from 1 / K."""
    counts = np.array([[sum(r.label == c for r in part) for c in range(3)] for part in tests])
    counts = np.hstack([counts, counts.sum(1, keepdims=True)])
    return np.abs(counts / counts.sum(0) - 1 / len(tests)).max()


def test_test_splits_are_about_as_even_as_those_of_scikit_learn():
    sklearn = pytest.importorskip('sklearn.model_selection')
    ours, theirs = [], []
    for seed in range(8):
        rows, folds = folds_of(seed=seed)
        labels, groups = [r.label for r in rows], [r.group for r in rows]
        splitter = sklearn.StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        tests = [[rows[i] for i in test] for _, test in splitter.split(rows, labels, groups)]
        theirs.append(spread(tests))
        ours.append(spread([splits['test'] for splits in folds]))
    # Shares of 20 %, of parts with 8 groups; scikit-learn places the large groups earlier.
    assert np.mean(ours) <= np.mean(theirs) + 0.02
    assert max(ours) < 0.1


def test_two_folds_are_nearly_the_best_of_all_divisions():
    """Oracle: all divisions of 10 groups."""
    for seed in range(4):
        rows, folds = folds_of(10, 2, seed)
        names = sorted({r.group for r in rows})
        divisions = (set(part) for k in range(2, 9) for part in combinations(names, k))
        best = min(
            spread([[r for r in rows if (r.group in part) == side] for side in (True, False)])
            for part in divisions
        )
        assert spread([splits['test'] for splits in folds]) <= best + 0.12


def test_equal_groups_are_divided_exactly():
    rows = [row(f'{g}_{i}', f'p{g}', g % 2) for g in range(20) for i in range(3)]
    for splits in fold_rows(rows, 5):
        assert Counter(r.label for r in splits['test']) == {0: 6, 1: 6}


def test_folds_depend_on_the_seed_only():
    rows, folds = folds_of()
    assert fold_rows(random.Random(3).sample(rows, len(rows)), 5, (75, 10, 15), 0) == folds
    assert fold_rows(rows, 5, (75, 10, 15), 1) != folds
    named = split_rows(rows, (75, 10, 15), 0, folds=5)
    assert list(named)[:4] == ['fold_0/train', 'fold_0/val', 'fold_0/test', 'fold_1/train']
    assert list(named.values()) == [part for one in folds for part in one.values()]


def test_folds_of_a_seed_never_change():
    folds = fold_rows([row(g, g) for g in 'abcdefgh'], 4)
    tests = [[r.group for r in one['test']] for one in folds]
    assert tests == [['d', 'e'], ['b', 'h'], ['f', 'g'], ['a', 'c']]


def test_labels_of_several_classes_are_stratified():
    rows = [
        replace(row(f'{i:02}', f'{i}', int(i % 3 > 0)), labels=('a', 'b')[: i % 3])
        for i in range(45)
    ]
    for splits in fold_rows(rows, 5):
        counts = Counter(name for r in splits['test'] for name in r.labels)
        assert counts == dict(a=6, b=3)


def test_by_class_preserves_proportions_of_val():
    rows = [row(f'{i:03}', f'{i}', int(i % 20 == 0)) for i in range(400)]
    for splits in fold_rows(rows, 4, (80, 20, 0), by_class=True):
        assert sum(r.label for r in splits['val']) == 3
    # By image, a group may be divided.
    tests = [one['test'] for one in fold_rows(ROWS, 4, by_image=True)]
    assert [len(part) for part in tests] == [10] * 4


@pytest.mark.parametrize('folds', [1, 0, -2, 9])
def test_invalid_number_of_folds_raises(folds):
    with pytest.raises(ValueError, match=f'folds: expected 2 to 8, .* got {folds}'):
        fold_rows(ROWS, folds)
