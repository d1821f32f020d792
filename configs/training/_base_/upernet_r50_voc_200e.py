# UPerNet-R50 for VOC, 200 epochs of batch 16, from torchvision's ImageNet weights: all but the data.
_base_ = ['mmseg::_base_/models/upernet_r50.py', './schedule_voc_200e.py']
data_preprocessor = dict(size=(512, 512))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    # torchvision's ResNet has the plain stem; mmseg's default, ResNetV1c, has three small convolutions in its place.
    backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
