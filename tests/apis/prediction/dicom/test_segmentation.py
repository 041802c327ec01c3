"""Segmentation objects, opened again by pydicom and highdicom."""

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom import read_dicom
from mmkdml.apis.prediction.dicom.segmentation import SegmentationError, write_segmentation
from mmkdml.apis.prediction.dicom.segments import Code, Segment

hd = pytest.importorskip('highdicom')
pydicom = pytest.importorskip('pydicom')
STRUCTURE = Code('SCT', '49755003', 'Morphologically Altered Structure')
SEGMENTS = [
    Segment('Glioma', STRUCTURE, Code('SCT', '108369006', 'Neoplasm')),
    Segment(
        'Liver', Code('SCT', '123037004', 'Anatomical Structure'), Code('SCT', '10200004', 'Liver')
    ),
    Segment('Mine', STRUCTURE, Code('99ME', 'T1', 'Mine')),
]


def labels(volume, seed=0):
    """Classes 0 to 3 at random, none of them in the first slice of several."""
    masks = np.random.default_rng(seed).integers(0, 4, volume.slices.shape)
    masks[: len(masks) // 3] = 0
    return masks


def write(volume, masks, path):
    write_segmentation(masks, volume, SEGMENTS, 'Networks', path, 'ensemble')
    seg = hd.seg.segread(path)
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ['Glioma', 'Liver', 'Mine']
    assert [one.SegmentAlgorithmName for one in seg.SegmentSequence] == ['Networks'] * 3
    kind = seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == (
        *('10200004', 'SCT', 'Liver'),
    )
    assert seg.SegmentationType == 'BINARY'
    assert seg.SeriesDescription == 'ensemble'
    return seg


@pytest.mark.parametrize(
    'directions', [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [0.8, 0.6, 0, 0, 0, -1]]
)
def test_series_voxel_for_voxel(write_slice, tmp_path, directions):
    """Frames are placed by the position of the instance that they refer to."""
    normal = np.cross(*np.reshape(directions, (2, 3)))
    geometry = dict(ImageOrientationPatient=directions, FrameOfReferenceUID='1.2.9')
    for number, name in enumerate('cafbde'):
        write_slice(
            tmp_path / name, np.zeros((5, 6)), np.array([1, 2, 3]) + 2.5 * number * normal,
            StudyInstanceUID='1.2', Modality='CT', PatientID='P7', SOPInstanceUID=f'1.5.{number}',
            **geometry,
        )  # fmt: skip
    volume = read_dicom([tmp_path / name for name in 'abcdef'])
    masks = labels(volume)
    seg = write(volume, masks, tmp_path / 'seg.dcm')
    uids = [f'1.5.{number}' for number in range(6)]
    found = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found, masks)
    plain = pydicom.dcmread(tmp_path / 'seg.dcm')
    assert (plain.PatientID, plain.StudyInstanceUID) == ('P7', '1.2')
    assert plain.FrameOfReferenceUID == '1.2.9'
    assert plain.ReferencedSeriesSequence[0].SeriesInstanceUID == '1.2.3'
    assert plain.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [3, 2]
    built = np.zeros_like(masks)
    for pixels, group in zip(
        plain.pixel_array, plain.PerFrameFunctionalGroupsSequence, strict=True
    ):
        assert pixels.any()  # the others are left out
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        index = uids.index(source.ReferencedSOPInstanceUID)
        place = group.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, np.array([1, 2, 3]) + 2.5 * index * normal, atol=1e-5)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        built[index][pixels == 1] = number
    np.testing.assert_array_equal(built, masks)


def test_volume_of_highdicom_has_our_affine(write_slice, tmp_path):
    for z in range(4):
        write_slice(
            tmp_path / str(z), np.zeros((5, 6)), (-4 * z, 7, 20), FrameOfReferenceUID='1.2.9',
            StudyInstanceUID='1.2', Modality='MR',
        )  # fmt: skip
    volume = read_dicom(sorted(tmp_path.iterdir()))
    masks = labels(volume)
    masks[0, 0, 0] = 1
    seg = write(volume, masks, tmp_path / 'seg.dcm')
    found = seg.get_volume(combine_segments=True)
    same = found.get_affine('RAS')[:3, 0] @ volume.affine[:3, 2] > 0
    found = found if same else found.flip_spatial(0)
    np.testing.assert_allclose(found.get_affine('RAS')[:, [2, 1, 0, 3]], volume.affine, atol=1e-5)
    np.testing.assert_array_equal(found.array, masks)


def test_multi_frame_file_voxel_for_voxel(write_enhanced, frames, tmp_path):
    order = [3, 0, 4, 1, 2]
    volume = read_dicom([write_enhanced(tmp_path / 'x', frames, order)])
    masks = labels(volume)
    seg = write(volume, masks, tmp_path / 'seg.dcm')
    uid = pydicom.dcmread(tmp_path / 'x').SOPInstanceUID
    found = seg.get_pixels_by_source_frame(
        uid, [1, 2, 3, 4, 5], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found, masks[order])


def test_radiograph_pixel_for_pixel(write_radiograph, tmp_path):
    path = write_radiograph(tmp_path / 'x', np.zeros((7, 9)), SOPInstanceUID='1.5', Modality='DX')
    volume = read_dicom([path])
    masks = np.random.default_rng(0).integers(0, 4, (1, 7, 9))
    seg = write(volume, masks, tmp_path / 'seg.dcm')
    found = seg.get_pixels_by_source_instance(['1.5'], combine_segments=True)
    np.testing.assert_array_equal(found, masks)


def test_empty_mask_is_an_object_with_its_geometry(write_enhanced, frames, tmp_path):
    volume = read_dicom([write_enhanced(tmp_path / 'x', frames)])
    masks = np.zeros(volume.slices.shape, np.uint8)
    write(volume, masks, tmp_path / 'seg.dcm')
    assert not pydicom.dcmread(tmp_path / 'seg.dcm').pixel_array.any()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(StudyInstanceUID=None), 'x: StudyInstanceUID: expected a UID'),
        (dict(FrameOfReferenceUID=None), 'x: FrameOfReferenceUID: expected a UID'),
        (dict(Modality=None), 'x: expected a series that .* support.*Modality.*writes NIfTI'),
    ],
)
def test_sources_without_required_elements_raise(
    write_enhanced, frames, tmp_path, changes, message
):
    volume = read_dicom([write_enhanced(tmp_path / 'x', frames, **changes)])
    with pytest.raises(SegmentationError, match=message) as refused:
        write(volume, labels(volume), tmp_path / 'seg.dcm')
    assert '\n' not in str(refused.value)
    assert not (tmp_path / 'seg.dcm').exists()


def test_invalid_masks_raise(write_enhanced, frames, tmp_path):
    volume = read_dicom([write_enhanced(tmp_path / 'x', frames)])
    for masks in (np.zeros((5, 6, 5)), np.full((5, 5, 6), 4), np.full((5, 5, 6), -1)):
        with pytest.raises(ValueError, match=r'masks: .*\(5, 5, 6\).* 0 to 3, got'):
            write_segmentation(masks, volume, SEGMENTS, 'x', tmp_path / 'seg.dcm')
