# Boxes on COCO with a ResNet-18: what ../COCO-Detection/centernet_R_18_1x.yaml is, as a LazyConfig.
from .common.centernet import dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "./output/lazy_R_18_1x"
