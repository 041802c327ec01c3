import io
from pathlib import Path

# isort: split
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmkdml.apis import Predictor, load_config
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.datasets import AlbumentationsTransform, LoadBinaryMask
from mmkdml.datasets.channels import DTYPES, as_picture, read_channels
from mmkdml.datasets.converters.source_checks import foreground_share
from mmkdml.datasets.image_files import FORMATS
from mmkdml.datasets.images import read_binary_mask
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]

# Offset, number of removed bytes, and inserted bytes.
EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 8), st.binary(max_size=8)), max_size=4
)
MODES = ('L', '1', 'P', 'RGB', 'RGBA', 'LA', 'I', 'F', 'I;16', 'CMYK', 'YCbCr', 'HSV', 'LAB')
OPTIONS = st.builds(
    ReadOptions,
    plane=st.sampled_from(['axial', 'coronal', 'sagittal']),
    window=st.none() | st.just((-10.0, 10.0)),
    max_pixels=st.sampled_from([10, 50_000]),
)


def edited(content, edits):
    for offset, length, new in edits:
        offset %= len(content) + 1
        content = content[:offset] + new + content[offset + length :]
    return content


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def nifti():
    nibabel = pytest.importorskip('nibabel')
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    return nibabel.Nifti1Image(voxels, np.diag([1, 2, 3, 1])).to_bytes()


def dicom():
    pydicom = pytest.importorskip('pydicom')
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = pydicom.uid.CTImageStorage
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = '1.2.3'
    one.SeriesInstanceUID = '1.2'
    one.Rows, one.Columns, one.SamplesPerPixel, one.PixelRepresentation = 4, 5, 1, 0
    one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
    one.PhotometricInterpretation = 'MONOCHROME2'
    one.ImagePositionPatient, one.PixelSpacing = [0, 0, 0], [1, 1]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.WindowCenter, one.WindowWidth, one.RescaleSlope, one.RescaleIntercept = 5, 10, 1, 0
    one.PixelData = np.arange(20, dtype=np.uint16).tobytes()
    file = io.BytesIO()
    one.save_as(file, enforce_file_format=True)
    return file.getvalue()


COLOR = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
FILES = {
    'a.png': encoded(COLOR, 'PNG'),
    'a.jpg': encoded(COLOR, 'JPEG'),
    'a.tif': encoded(
        COLOR, 'TIFF', save_all=True, append_images=[Image.fromarray(COLOR)], compression='tiff_lzw'
    ),
    'a.bmp': encoded(COLOR, 'BMP'),
    'a.nii': nifti(),
    'a.dcm': dicom(),
}


def numpy_file(dtype):
    file = io.BytesIO()
    np.save(file, np.arange(64, dtype=dtype).reshape(4, 4, 4))
    return file.getvalue()


CHANNELS = {
    'uint8.npy': numpy_file('uint8'),
    'float64.npy': numpy_file('float64'),
    'pages.tif': encoded(
        COLOR[..., 0], 'TIFF', save_all=True, append_images=[Image.fromarray(COLOR[..., 1])]
    ),
    'alpha.png': encoded(np.dstack([COLOR, COLOR[..., 0]]), 'PNG'),
    'deep.png': encoded(COLOR[..., 0].astype(np.uint16), 'PNG'),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('images')


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    mode=st.sampled_from(MODES),
    kind=st.sampled_from(FORMATS),
    values=st.sampled_from([(0, 255), (0, 1), (7,), (0, 1, 255), (0, 128)]),
    edits=st.just([]) | EDITS,
)
def test_masks_of_every_mode_and_format(folder, attempt, shape, mode, kind, values, edits):
    pixels = np.resize(np.array(values, np.uint8), shape)
    image = Image.fromarray(pixels).convert('L')
    path = folder / 'mask'
    try:
        image = image.convert(mode) if mode != 'P' else image.quantize(4)
        image.save(path, kind)
    except (OSError, ValueError, KeyError):  # not supported by Pillow
        return
    path.write_bytes(edited(path.read_bytes(), edits))
    mask = attempt(lambda: read_binary_mask(path), str(path))
    results = attempt(
        lambda: LoadBinaryMask().transform(dict(seg_map_path=str(path), seg_fields=[])), str(path)
    )
    attempt(lambda: foreground_share(path, path, None), str(path))
    assert (mask is None) == (results is None)
    if mask is not None:
        assert (mask.ndim, mask.dtype, set(np.unique(mask)) <= {0, 1}) == (2, np.uint8, True)
        np.testing.assert_array_equal(results['gt_seg_map'], mask)
    if mode == 'L' and kind == 'PNG' and not edits and set(values) in ({0, 255}, {0, 1}):
        np.testing.assert_array_equal(mask, pixels > 0)


@settings(max_examples=4 * settings.default.max_examples)
@given(name=st.sampled_from(sorted(CHANNELS)), edits=EDITS)
def test_damaged_files_of_several_channels(folder, attempt, name, edits):
    path = folder / name
    path.write_bytes(edited(CHANNELS[name], edits))
    found = attempt(lambda: read_channels(path), str(path))
    if found is not None:
        pixels, header = found
        assert pixels.ndim == 3
        assert pixels.dtype.name in DTYPES
        assert header.shown_size == pixels.shape[1::-1]
        assert as_picture(pixels).shape == (*pixels.shape[:2], 3)


@settings(max_examples=4 * settings.default.max_examples)
@given(name=st.sampled_from(sorted(FILES)), edits=EDITS, options=OPTIONS)
def test_damaged_images_and_volumes(folder, attempt, name, edits, options):
    path = folder / name
    path.write_bytes(edited(FILES[name], edits))
    case = attempt(lambda: read_source(*find_sources(path), options), name.partition('.')[0])
    if case is not None and case.volume is not None:
        kinds = 'u' if options.window or path.suffix == '.dcm' else 'biuf'
        assert np.asarray(case.volume.slices).dtype.kind in kinds
        assert np.isfinite(case.volume.affine).all()
    elif case is not None:
        assert all(image is None or image.dtype == np.uint8 for image in case.images)


@given(
    values=st.dictionaries(
        st.sampled_from(
            ['Rows', 'Columns', 'PixelSpacing', 'ImagePositionPatient', 'SliceThickness',
             'ImageOrientationPatient', 'WindowCenter', 'WindowWidth', 'RescaleSlope',
             'RescaleIntercept', 'NumberOfFrames', 'BitsAllocated', 'PixelRepresentation',
             'SamplesPerPixel', 'SeriesInstanceUID', 'PhotometricInterpretation']
        ),
        st.sampled_from(
            [0, 1, -1, 4, 65535, '', None, 1e300, [1, 2], [1, 0, 0, 0, 1, 0], 'x', [0] * 3]
        )
        | st.floats(),
        min_size=1,
        max_size=3,
    ),
    second=st.booleans(),
)  # fmt: skip
@example(values=dict(Rows=[1, 2]), second=False)
@example(values=dict(WindowCenter=1e17), second=False)
@example(values=dict(WindowWidth=float('inf')), second=False)
@example(values=dict(WindowWidth=3.403e38), second=False)
def test_dicom_headers(folder, attempt, values, second):
    pydicom = pytest.importorskip('pydicom')
    series = folder / 'series'
    series.mkdir(exist_ok=True)
    for number in range(1 + second):
        one = pydicom.dcmread(io.BytesIO(FILES['a.dcm']))
        one.ImagePositionPatient = [0, 0, number]
        try:
            for key, value in values.items():
                setattr(one, key, value)
            one.save_as(series / f'{number}.dcm')
        except Exception:  # not supported by pydicom
            return
    files = [series / f'{number}.dcm' for number in range(1 + second)]
    (source,) = find_sources(files)
    attempt(lambda: read_source(source, ReadOptions()), 'series')


@given(
    header=st.dictionaries(
        st.sampled_from(
            ['pixdim', 'dim', 'srow_x', 'srow_y', 'scl_slope', 'scl_inter', 'sform_code', 'magic',
             'qform_code', 'quatern_b', 'vox_offset', 'datatype', 'bitpix']
        ),
        st.sampled_from([0, 1, -1, 2, 16, 1e38, 1e-38, float('nan'), float('inf'), 32767]),
        min_size=1,
        max_size=3,
    ),
    plane=st.sampled_from(['axial', 'sagittal']),
)  # fmt: skip
def test_nifti_headers(folder, attempt, header, plane):
    nibabel = pytest.importorskip('nibabel')
    content = bytearray(FILES['a.nii'])
    fields = nibabel.Nifti1Header.template_dtype.fields
    for key, value in header.items():
        dtype, offset = fields[key]
        with np.errstate(all='ignore'):
            try:
                new = np.full(dtype.shape, value).astype(dtype.base).tobytes()
            except (ValueError, OverflowError):
                continue
        content[offset : offset + len(new)] = new
    path = folder / 'volume.nii'
    path.write_bytes(content)
    attempt(lambda: read_source(*find_sources(path), ReadOptions(plane)), str(path))


# Not the name of an existing folder, which would be searched.
NAMES = st.text(st.characters(exclude_characters='/.'), min_size=1, max_size=3)


@given(
    array=st.sampled_from(
        [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8),
         np.zeros((4, 4)), np.zeros(4, np.uint8), np.zeros((2, 2, 2, 3), np.uint8)]
    ) | st.integers() | st.none() | NAMES | st.lists(st.none() | NAMES),
    exclude=st.none() | st.text(max_size=4),
)  # fmt: skip
@example(array='a\0', exclude=None)
@example(array='x' * 5000, exclude=None)
def test_sources_of_any_type(folder, attempt, array, exclude):
    sources = attempt(lambda: find_sources(array, exclude)) or ()
    attempt(lambda: [read_source(source, ReadOptions()) for source in sources])


VALUES = st.none() | st.integers(-2, 300) | st.floats() | st.text(max_size=4) | st.booleans()


@given(
    transforms=st.lists(
        st.dictionaries(
            st.sampled_from(['type', 'p', 'limit', 'height', 'width', 'transforms', 'n'])
            | st.text(max_size=4),
            VALUES | st.sampled_from(['Rotate', 'Resize', 'OneOf', 'HorizontalFlip', '__name__']),
        )
        | VALUES,
        max_size=2,
    )
    | VALUES
)
@example(transforms=[dict(type='Rotate', limit='far')])
@example(transforms=[dict(type='HorizontalFlip', q=1)])
@example(transforms=[dict(type='__name__')])
@example(transforms=3)
def test_albumentations(attempt, transforms):
    transform = attempt(lambda: AlbumentationsTransform(transforms))
    if transform is not None:
        results = dict(img=COLOR, gt=np.zeros((8, 8), np.uint8), seg_fields=['gt'])
        assert transform.transform(results)['img'].dtype == np.uint8


@pytest.fixture(scope='module')
def predictor():
    torch.manual_seed(0)
    config = load_config(ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py')
    return Predictor(MODELS.build(config.model).eval(), config)


@settings(max_examples=max(1, settings.default.max_examples // 4))
@given(name=st.sampled_from(['a.png', 'a.jpg', 'a.tif', 'a.bmp']), edits=EDITS)
def test_predictions_of_damaged_images(folder, predictor, attempt, name, edits):
    path = folder / name
    path.write_bytes(edited(FILES[name], edits))
    predictions = attempt(lambda: predictor.predict(path), str(path))
    for one in predictions or ():
        assert all(np.isfinite(answer.probabilities).all() for answer in one.answers.values())
