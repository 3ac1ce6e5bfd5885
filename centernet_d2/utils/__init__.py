"""Helpers without torch or Detectron2."""
