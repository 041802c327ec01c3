"""Headers of multi-frame files and radiographs."""

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom.frames import frames_of

pydicom = pytest.importorskip('pydicom')


def test_each_frame_has_its_own_functional_groups(write_enhanced, frames, tmp_path):
    """The position and slope are per frame, the rest is shared."""
    path = write_enhanced(tmp_path / 'x', frames, order=[3, 0, 4, 1, 2], slopes=[1, 2, 3, 4, 5])
    found = frames_of(path)
    assert [one.position[2] for one in found] == [7.5, 0, 10, 2.5, 5]
    assert [one.rescale.RescaleSlope for one in found] == [1, 2, 3, 4, 5]
    assert {tuple(one.spacing) for one in found} == {(3, 2)}
    assert {one.thickness for one in found} == {2.5}
    assert [one.voi.WindowCenter for one in found] == [28] * 5
    assert [one.label for one in found] == [f'x frame {number}' for number in range(1, 6)]


@pytest.mark.parametrize(
    ('changes', 'spacing'),
    [
        (dict(), None),
        (dict(ImagerPixelSpacing=[0.2, 0.1]), (0.2, 0.1)),
        (dict(ImagerPixelSpacing=[0.2, 0.1], PixelSpacing=[0.15, 0.1]), (0.15, 0.1)),
        (dict(NominalScannedPixelSpacing=[0.3, 0.4]), (0.3, 0.4)),
    ],
)
def test_spacing_of_radiographs(write_radiograph, tmp_path, changes, spacing):
    (frame,) = frames_of(write_radiograph(tmp_path / 'x', np.zeros((5, 6)), **changes))
    assert frame.position is None
    assert (frame.spacing if spacing is None else tuple(frame.spacing)) == spacing


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(NumberOfFrames=0), 'x: NumberOfFrames: expected at least 1, got 0'),
        (dict(NumberOfFrames=-2), 'x: NumberOfFrames: expected at least 1, got -2'),
        (dict(NumberOfFrames=4), 'x: PerFrameFunctionalGroupsS.*: expected 4 .*, got 5'),
        (dict(NumberOfFrames=10**6), r'x: .*megavoxels \(1000000, 5, 6\) are more than 1'),
        (dict(NumberOfFrames=20000), r'x: NumberOfFrames: .* at most .* bytes.* got 20000'),
        (dict(slopes=[1, 2, float('nan'), 4, 5]), 'x: .*RescaleSlope: .*finite .*got nan'),
        (dict(slopes=[1, 0, 1, 1, 1]), 'x: .*RescaleSlope: .*not .* 0, got 0'),
        (dict(SharedFunctionalGroupsSequence=None), 'x: ImageOrientationP.* 6 .*got None'),
        (dict(PerFrameFunctionalGroupsSequence=None), 'x: ImagePositionP.* 3 .*got None'),
    ],
)
def test_invalid_headers_raise(write_enhanced, frames, tmp_path, changes, message):
    path = write_enhanced(tmp_path / 'x', frames, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        frames_of(path, max_voxels=10**6)
    assert '\n' not in str(refused.value)


def test_invalid_spacing_of_a_radiograph_raises(write_radiograph, tmp_path):
    path = write_radiograph(tmp_path / 'x', np.zeros((5, 6)), ImagerPixelSpacing=[0, 1])
    with pytest.raises(ValueError, match='x: ImagerPixelSpacing: expected positive'):
        frames_of(path)
