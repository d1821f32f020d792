# DeepLabV3+ on the data set of `segdeploy data synth`: the whole way once more with a model that is no UPerNet.
_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py', './_base_/synthetic.py']

crop_size = (128, 128)
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    # A quarter of ResNet-50's width: a check of the pipeline, in minutes.
    backbone=dict(type='ResNet', base_channels=16, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=512, channels=64, c1_in_channels=64, c1_channels=16, num_classes=5, norm_cfg=norm_cfg, init_cfg=None),
    auxiliary_head=None)
