# UPerNet-R50 on PASCAL VOC 2012 train (1,464 images), 200 epochs of batch 16: `segdeploy train upernet_r50_voc12_512x512_200e`.
# mmseg's recipe (SGD 0.01, poly 0.9 to 1e-4, crop 512), counted in epochs. Starts from ImageNet weights, which mmseg downloads.
_base_ = [
    'mmseg::_base_/models/upernet_r50.py', 'mmseg::_base_/datasets/pascal_voc12.py',
    'mmseg::_base_/default_runtime.py'
]

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor, decode_head=dict(num_classes=21), auxiliary_head=dict(num_classes=21))

train_dataloader = dict(batch_size=16, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=1e-4, begin=0, end=200, by_epoch=True, convert_to_iter_based=True)
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=10, max_keep_ckpts=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'))
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
visualizer = None
