"""Few-shot learning: so far the nearest-class-mean classifier that RepMet and others are compared with."""
