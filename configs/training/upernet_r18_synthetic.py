# A small UPerNet on the data set of `segdeploy data synth`: it learns to segment in about a minute on two CPU cores.
_base_ = ['mmseg::_base_/models/upernet_r50.py', './_base_/synthetic.py']

crop_size = (128, 128)
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(type='ResNet', depth=18, base_channels=32, norm_cfg=norm_cfg),
    # mmseg starts the last layer near zero (std 0.01), for long schedules: a run of minutes spends them on getting away.
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=32, num_classes=5, norm_cfg=norm_cfg, init_cfg=None),
    auxiliary_head=None)
