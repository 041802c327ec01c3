"""Do mixed styles help in classification? Five folds over all lesions of HAM10000, by lesion."""

from mmkdml.experiments import variant_runs

title = 'HAM10000 at 64x64, seven classes, small networks, 5 folds by lesion'
measures = ['accuracy', 'recall']
seeds = [0, 1]
folds = 5
amp = True
# python tools/dataset_converters/ham10000.py data/ham10000 --out data/ham10000/folds_cls --folds 5
options = {
    f'{split}_dataloader.dataset.ann_file': f'data/ham10000/folds_cls/{split}.csv'
    for split in ('train', 'val', 'test')
}
runs = [
    dict(name='teacher', config='configs/study/ham64_teacher.py'),
    *variant_runs('configs/study/ham64.py', teacher='teacher', weights_of='Table 14'),
    dict(name='students_alone', config='configs/study/ham64_students_alone.py'),
    dict(name='kd_x2', config='configs/study/ham64_kd_x2.py', teacher='teacher'),
]
