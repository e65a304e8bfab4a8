"""Rate, distortion and speed of this codec and its rivals, measured on the same pictures in one run."""
