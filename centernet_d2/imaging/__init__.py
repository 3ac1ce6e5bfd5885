"""Images: geometry, transforms, reading and visualization."""
