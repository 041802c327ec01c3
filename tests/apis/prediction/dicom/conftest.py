"""Radiographs and enhanced multi-frame files."""

import numpy as np
import pytest


@pytest.fixture(scope='session')
def write_radiograph(write_slice):
    """Return a function that writes an unsigned image without a position in the patient."""
    pydicom = pytest.importorskip('pydicom')

    def write(path, pixels, **changes):
        values = dict(
            SOPClassUID=pydicom.uid.DigitalXRayImageStorageForPresentation,
            StudyInstanceUID='1.2',
            PixelRepresentation=0,
            RescaleSlope=None,
            RescaleIntercept=None,
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
            PixelSpacing=None,
            SliceThickness=None,
        )
        return write_slice(path, pixels, **{**values, **changes})

    return write


@pytest.fixture(scope='session')
def write_enhanced():
    """Return a function that writes an enhanced CT file: a position and slope for each frame.

    Frames are axial, 2.5 mm apart in the order of ``order``; rows are 3 and columns 2 mm apart.
    """
    pydicom = pytest.importorskip('pydicom')

    def item(**values):
        made = pydicom.Dataset()
        for key, value in values.items():
            setattr(made, key, value)
        return made

    def write(path, pixels, order=None, slopes=None, change=None, **changes):
        number, rows, columns = pixels.shape
        groups = []
        for index in range(number):
            place = index if order is None else order[index]
            slope = 1 if slopes is None else slopes[index]
            groups.append(
                item(
                    FrameContentSequence=[item(DimensionIndexValues=[1, index + 1])],
                    PlanePositionSequence=[item(ImagePositionPatient=[10, 7, 2.5 * place])],
                    PixelValueTransformationSequence=[
                        item(RescaleSlope=slope, RescaleIntercept=-100, RescaleType='HU')
                    ],
                )
            )
        shared = item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[
                item(PixelSpacing=[3, 2], SliceThickness=2.5, SpacingBetweenSlices=2.5)
            ],
            FrameVOILUTSequence=[item(WindowCenter=28, WindowWidth=256)],
        )
        values = dict(
            SOPClassUID=pydicom.uid.EnhancedCTImageStorage,
            SOPInstanceUID=pydicom.uid.generate_uid(),
            StudyInstanceUID='1.2',
            SeriesInstanceUID='1.2.3',
            FrameOfReferenceUID='1.2.9',
            Modality='CT',
            NumberOfFrames=number,
            Rows=rows,
            Columns=columns,
            SamplesPerPixel=1,
            PhotometricInterpretation='MONOCHROME2',
            BitsAllocated=16,
            BitsStored=12,
            HighBit=11,
            PixelRepresentation=0,
            SharedFunctionalGroupsSequence=[shared],
            PerFrameFunctionalGroupsSequence=groups,
            PixelData=pixels.astype('<u2').tobytes(),
        )
        one = item(**{key: one for key, one in {**values, **changes}.items() if one is not None})
        if change is not None:
            change(one)
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        one.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def frames():
    """Values of five frames of 5 x 6 pixels, 12 bits."""
    return np.random.default_rng(2).integers(0, 400, (5, 5, 6))
