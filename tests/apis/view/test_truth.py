import numpy as np
import pytest
from PIL import Image

from mmkdml.apis import ReadOptions, write_mask
from mmkdml.apis.prediction.inputs import Case, Source, find_sources, read_source
from mmkdml.apis.prediction.volume import Volume
from mmkdml.apis.view.truth import TruthFolder

RNG = np.random.default_rng(0)


@pytest.fixture
def truth(tmp_path, segmentor):
    folder = tmp_path / 'truth'
    folder.mkdir()
    return folder


def read(folder, predictor, file, size=(4, 5)):
    (source,) = find_sources(file)
    case = read_source(source, ReadOptions())
    return TruthFolder(folder, predictor, ReadOptions()).read(case, size)


def image(path, pages=1, size=(4, 5)):
    pictures = [Image.fromarray(np.zeros(size, np.uint8)) for _ in range(pages)]
    pictures[0].save(path, **(dict(save_all=True, append_images=pictures[1:]) if pages > 1 else {}))
    return path


@pytest.mark.parametrize(('name', 'top'), [('a.png', 255), ('a_mask.tif', 1)])
def test_binary_masks_by_name(segmentor, truth, tmp_path, name, top):
    mask = RNG.integers(0, 2, (4, 5)).astype(np.uint8)
    Image.fromarray(mask * np.uint8(top)).save(truth / name)
    (found,) = read(truth, segmentor, image(tmp_path / 'a.png'))
    np.testing.assert_array_equal(found, mask)
    assert read(truth, segmentor, image(tmp_path / 'b.tif', pages=3)) == [None] * 3


def test_stack(segmentor, truth, tmp_path):
    masks = RNG.integers(0, 2, (3, 4, 5)).astype(np.uint8)
    first, *others = map(Image.fromarray, masks)
    first.save(truth / 'a.tif', save_all=True, append_images=others)
    np.testing.assert_array_equal(read(truth, segmentor, image(tmp_path / 'a.tif', 3)), masks)
    with pytest.raises(ValueError, match=r'a\.tif: .*\(2, 4, 5\), got \(3, 4, 5\)'):
        read(truth, segmentor, image(tmp_path / 'a.tif', 2))


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (np.zeros((4, 6)), r'expected a mask of the size \(1, 4, 5\), got \(1, 4, 6\)'),
        (np.full((4, 5), 7), 'class indices from 0 to 1, or 255 .*, got 7'),
        (np.stack([np.eye(4, 5), np.eye(4, 5), np.ones((4, 5))], 2), 'gray mask, got colors'),
    ],
)
def test_masks_that_do_not_fit(segmentor, truth, tmp_path, mask, message):
    Image.fromarray(mask.astype(np.uint8)).save(truth / 'a.png')
    with pytest.raises(ValueError, match=rf'a\.png: .*{message}'):
        read(truth, segmentor, image(tmp_path / 'a.png'))


def test_ignored_pixels(segmentor, truth, tmp_path):
    mask = np.resize([0, 1, 255], (4, 5)).astype(np.uint8)
    Image.fromarray(mask).save(truth / 'a.png')
    np.testing.assert_array_equal(read(truth, segmentor, image(tmp_path / 'a.png')), [mask])


def test_folder(segmentor, predictors, truth, tmp_path):
    with pytest.raises(FileNotFoundError, match='true masks: .*none'):
        TruthFolder(tmp_path / 'none', segmentor, ReadOptions())
    with pytest.raises(ValueError, match='No images in'):
        TruthFolder(truth, segmentor, ReadOptions())
    classifier = predictors['kdml_v3_demo_slices']
    with pytest.raises(ValueError, match='--truth: .* got one of classification.* Omit images'):
        TruthFolder(truth, classifier, ReadOptions())


AFFINES = {
    'axes': np.diag([2.0, 3, 4, 1]),
    'swapped': np.array([[0, 0, -4.0, 9], [2, 0, 0, 5], [0, -3, 0, 1], [0, 0, 0, 1]]),
    'oblique': np.array([[2, 0.3, 0, 9], [-0.3, 3, 0.2, 5], [0, -0.2, -4, 1.0], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize('affine', AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize('plane', ['axial', 'coronal', 'sagittal'])
def test_volumes_are_cut_as_their_image(segmentor, truth, tmp_path, affine, plane):
    """The image is white where the mask is 1."""
    nibabel = pytest.importorskip('nibabel')
    mask = RNG.integers(0, 2, (3, 4, 5)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, affine), truth / 'a.nii.gz')
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.int16) * 90, affine), tmp_path / 'a.nii')
    options = ReadOptions(plane, window=(0, 90))
    case = read_source(Source('a', (tmp_path / 'a.nii',)), options)
    found = TruthFolder(truth, segmentor, options).read(case, case.volume.slices.shape[1:])
    np.testing.assert_array_equal(np.stack(found) * 255, case.volume.slices)
    shifted = affine + np.eye(4)[:, :1] * np.eye(4)[3]
    nibabel.save(nibabel.Nifti1Image(mask, shifted), truth / 'a.nii.gz')
    with pytest.raises(ValueError, match=r'a\.nii\.gz: expected the affine and the \(3, 4, 5\)'):
        TruthFolder(truth, segmentor, options).read(case, case.volume.slices.shape[1:])
    nibabel.save(nibabel.Nifti1Image(mask * np.float32(0.5), affine), truth / 'a.nii.gz')
    with pytest.raises(ValueError, match=r'a\.nii\.gz: expected class indices, got fractions'):
        TruthFolder(truth, segmentor, options).read(case, case.volume.slices.shape[1:])


def test_masks_that_were_written_for_another_orientation(segmentor, truth):
    """As those of DICOM series, whose slices have any orientation."""
    pytest.importorskip('nibabel')
    masks = RNG.integers(0, 2, (3, 4, 5)).astype(np.uint8)
    affine, to_file = AFFINES['oblique'], np.array([[2, 1], [0, -1], [1, -1]])
    volume = Volume(np.zeros((3, 4, 5), np.uint8), affine, to_file)
    write_mask(masks, volume, truth / 'series.nii.gz')
    case = Case(Source('series'), list(volume.slices), volume)
    found = TruthFolder(truth, segmentor, ReadOptions()).read(case, (4, 5))
    np.testing.assert_array_equal(np.stack(found), masks)


def test_several_classes(segmentor, truth, tmp_path):
    folder = TruthFolder.__new__(TruthFolder)
    folder._number, folder._max_pixels = 3, 100
    folder.files = {'a': truth / 'a.png'}
    mask = np.resize([0, 1, 2, 255], (4, 5)).astype(np.uint8)
    Image.fromarray(mask).save(truth / 'a.png')
    (source,) = find_sources(image(tmp_path / 'a.png'))
    case = read_source(source, ReadOptions())
    np.testing.assert_array_equal(folder.read(case, (4, 5)), [mask])
    Image.fromarray(np.where(mask == 2, 3, mask)).save(truth / 'a.png')
    with pytest.raises(ValueError, match=r'from 0 to 2, .* got 0, 1, 3, 255'):
        folder.read(case, (4, 5))
