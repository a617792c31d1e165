"""What a run tells about itself: pages, curves, diagnosis."""
