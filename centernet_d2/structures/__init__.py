"""Data structures of points, 3-D boxes and cameras."""
