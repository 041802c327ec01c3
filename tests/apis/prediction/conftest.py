"""DICOM files to predict."""

import numpy as np
import pytest


@pytest.fixture(scope='session')
def write_slice():
    """Return a function that writes a sagittal slice: rows go to the back, columns to the feet."""
    pydicom = pytest.importorskip('pydicom')

    def write(path, pixels, position=(0, 0, 0), syntax='1.2.840.10008.1.2.1', **changes):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = syntax = pydicom.uid.UID(syntax)
        values = dict(
            SOPClassUID=pydicom.uid.CTImageStorage,
            SOPInstanceUID=pydicom.uid.generate_uid(),
            SeriesInstanceUID='1.2.3',
            ImagePositionPatient=list(position),
            ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
            PixelSpacing=[3, 2],
            SliceThickness=5,
            Rows=pixels.shape[0],
            Columns=pixels.shape[1],
            SamplesPerPixel=1,
            PhotometricInterpretation='MONOCHROME2',
            BitsAllocated=16,
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=1,
            RescaleSlope=2,
            RescaleIntercept=-100,
            PixelData=np.asarray(pixels).astype('<i2').tobytes(),
        )
        for key, value in {**values, **changes}.items():
            if value is not None:
                setattr(one, key, value)
        one['PixelData'].VR = 'OB' if syntax.is_encapsulated else 'OW'
        one.save_as(path, enforce_file_format=True)
        return path

    return write
