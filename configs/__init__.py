"""One file is one experiment. `imagenet.py` holds every field with its meaning; the others change only what they need to."""
