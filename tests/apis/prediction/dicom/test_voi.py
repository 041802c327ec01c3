"""Windows and lookup tables against pydicom's."""

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom import read_dicom

pydicom = pytest.importorskip('pydicom')
RAMP = np.arange(0, 4080, 17).reshape(15, 16)


def table(bits, data, first=0):
    item = pydicom.Dataset()
    item.add_new('LUTDescriptor', 'US', [len(data), first, bits])
    item.add_new('LUTData', 'US', [int(one) for one in data])
    return dict(VOILUTSequence=[item])


WINDOW = dict(WindowCenter=1500, WindowWidth=1001)
SQUARES = np.round(np.linspace(0, 1, 3001) ** 2 * 1023)
CASES = {
    'linear': WINDOW,
    'exact': dict(**WINDOW, VOILUTFunction='LINEAR_EXACT'),
    'sigmoid': dict(**WINDOW, VOILUTFunction='SIGMOID'),
    'table': table(10, SQUARES, first=200),
    'table and window': {**table(10, SQUARES), **WINDOW},
}


@pytest.mark.parametrize('kind', CASES)
@pytest.mark.parametrize('inverse', [False, True])
def test_radiographs_are_displayed_as_by_pydicom(write_radiograph, tmp_path, kind, inverse):
    """pydicom maps to the full range of the output: that of the table, or of the stored values."""
    changes = dict(PresentationLUTShape='INVERSE' if inverse else 'IDENTITY', BitsStored=12)
    changes['PhotometricInterpretation'] = f'MONOCHROME{1 if inverse else 2}'
    path = write_radiograph(tmp_path / 'x', RAMP, HighBit=11, **CASES[kind], **changes)
    one = pydicom.dcmread(path)
    expected = pydicom.pixels.apply_voi_lut(one.pixel_array, one) / (
        1023 if 'tab' in kind else 4095
    )
    expected = 255 * (1 - expected if inverse else expected)
    volume = read_dicom([path])
    np.testing.assert_allclose(volume.slices[0], expected, atol=0.6)
    assert len(np.unique(volume.slices)) > 40
    chosen = read_dicom([path], window=(0, 4095)).slices[0]  # replaces the file's own
    linear = RAMP / 4095 * 255
    np.testing.assert_allclose(chosen, 255 - linear if inverse else linear, atol=0.51)


@pytest.mark.parametrize(
    ('photometric', 'shape', 'inverse'),
    [(1, None, True), (2, None, False), (2, 'INVERSE', True), (1, 'IDENTITY', False)],
)
def test_the_presentation_lut_decides_if_present(
    write_radiograph, tmp_path, photometric, shape, inverse
):
    changes = dict(PhotometricInterpretation=f'MONOCHROME{photometric}', PresentationLUTShape=shape)
    path = write_radiograph(tmp_path / 'x', RAMP, **changes)
    slices = read_dicom([path], window=(0, 4095)).slices
    assert (slices[0, 0, 0] == 255) == inverse


def test_tables_that_differ_are_not_used(write_slice, tmp_path):
    paths = [
        write_slice(tmp_path / str(z), RAMP, (z, 0, 0), **table(bits, np.arange(4096) % 2**bits))
        for z, bits in enumerate((8, 10))
    ]
    low, high = np.percentile(np.stack([2.0 * RAMP - 100] * 2), (0.5, 99.5))
    expected = ((2.0 * RAMP - 100 - low) / (high - low)).clip(0, 1) * 255
    for one in read_dicom(paths).slices:
        np.testing.assert_allclose(one, expected, atol=0.51)


def test_invalid_tables_are_one_line(write_radiograph, tmp_path):
    path = write_radiograph(tmp_path / 'x', RAMP, **table(16, [1, 2]))
    one = pydicom.dcmread(path)
    del one.VOILUTSequence[0].LUTDescriptor
    one.save_as(path)
    with pytest.raises(ValueError, match='unreadable DICOM window') as refused:
        read_dicom([path])
    assert '\n' not in str(refused.value)
