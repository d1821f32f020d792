# mmseg's published recipe as it is, 20,000 iterations; 16 images a step in one process, where mmseg's has 4 GPUs of 4.
_base_ = ['mmseg::upernet/upernet_r101_4xb4-20k_voc12aug-512x512.py']
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
