# mmseg's published recipe, 20,000 iterations; 16 images a step in one process, where mmseg's has 4 GPUs of 4.
# mmseg's own file leaves out the size that images are padded to, and cannot train without it.
_base_ = ['mmseg::upernet/upernet_r18_4xb4-20k_voc12aug-512x512.py']
crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor)
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=16)
