# ResNet-18 for COCO detection: ../COCO-Detection/centernet_R_18_1x.yaml as a LazyConfig.
from .common.centernet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "./output/lazy_R_18_1x"
