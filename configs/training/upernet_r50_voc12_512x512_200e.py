# UPerNet-R50 on PASCAL VOC 2012 train (1,464 images), 200 epochs of batch 16. Starts from mmseg's own ImageNet weights.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py', 'mmseg::_base_/datasets/pascal_voc12.py',
    './_base_/schedule_voc_200e.py'
]
crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor, decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))
train_dataloader = dict(batch_size=16, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))
