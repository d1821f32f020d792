"""Pictures and label maps: decoding, resizing, drawing, data sets."""
