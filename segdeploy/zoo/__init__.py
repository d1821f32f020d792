"""Which of mmseg's architectures export, tried one by one."""
