"""What lies between a trained detector and folders of images: finding, decoding, scoring, recording, following."""
