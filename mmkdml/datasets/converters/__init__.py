"""Converters that write split files for published data sets. Images are not copied or changed."""

from mmkdml.datasets.converters.bccd import convert_bccd
from mmkdml.datasets.converters.coco import coco_boxes, convert_coco
from mmkdml.datasets.converters.folders import class_folder_rows, convert_folders
from mmkdml.datasets.converters.ham10000 import convert_ham10000, ham10000_rows
from mmkdml.datasets.converters.lgg import convert_lgg, lgg_rows
from mmkdml.datasets.converters.mask_boxes import component_boxes, convert_mask_boxes
from mmkdml.datasets.converters.mask_folders import class_mask_rows, mask_pair_rows
from mmkdml.datasets.converters.multi_label import convert_multi_label, multi_label_rows
from mmkdml.datasets.converters.nnunet import convert_nnunet
from mmkdml.datasets.converters.pcam import convert_pcam, pcam_rows
from mmkdml.datasets.converters.voc import convert_voc, voc_boxes
from mmkdml.datasets.converters.yolo import convert_yolo, yolo_boxes

__all__ = [
    'class_folder_rows',
    'class_mask_rows',
    'coco_boxes',
    'component_boxes',
    'convert_bccd',
    'convert_coco',
    'convert_folders',
    'convert_ham10000',
    'convert_lgg',
    'convert_mask_boxes',
    'convert_multi_label',
    'convert_nnunet',
    'convert_pcam',
    'convert_voc',
    'convert_yolo',
    'ham10000_rows',
    'lgg_rows',
    'mask_pair_rows',
    'multi_label_rows',
    'pcam_rows',
    'voc_boxes',
    'yolo_boxes',
]
