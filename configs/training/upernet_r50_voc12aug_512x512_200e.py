# UPerNet-R50 on VOC 2012 + SBD ("trainaug", 10,582 images), 200 epochs of batch 16. Differs from upernet_r50_voc12_512x512_200e in its data alone.
_base_ = ['mmseg::_base_/datasets/pascal_voc12_aug.py', './_base_/upernet_r50_voc_200e.py']
train_dataloader = dict(batch_size=16, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))
