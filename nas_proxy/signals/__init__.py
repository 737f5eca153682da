"""Where scores of architectures come from: trained on a small set or on all images, computed, or at equal cost."""
