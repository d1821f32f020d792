# UPerNet-R50 on VOC 2012 + SBD ("trainaug", 10,582 images), 200 epochs, from torchvision's ImageNet weights.
# 8 images a process; the learning rate is scaled from 16 a step: 0.005 with one process, 0.01 with two.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py', 'mmseg::_base_/datasets/pascal_voc12_aug.py',
    './_base_/schedule_voc_200e.py'
]
crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    # torchvision's ResNet has the plain stem; mmseg's default, ResNetV1c, has three small convolutions in its place.
    backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
train_dataloader = dict(batch_size=8, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))
train_cfg = dict(val_interval=1)
auto_scale_lr = dict(enable=True)
